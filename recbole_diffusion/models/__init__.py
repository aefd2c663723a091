"""Recommenders: one file a model, each a composition of the parts."""
