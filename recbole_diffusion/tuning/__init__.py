"""Sweeps: many trials of a model on Ray Tune, chosen by validation, the chosen one tested once."""
