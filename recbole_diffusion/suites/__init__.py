"""Suites: a grid of models, datasets and seeds from one file, run, gone on with, and put into tables."""
