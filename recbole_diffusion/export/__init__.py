"""Trained models as files that other programs use: weights, a traced user encoder, item vectors, and what they are."""
