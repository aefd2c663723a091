"""Finished and unfinished runs of a suite as one HTML page that needs nothing beside itself; neither RecBole nor torch."""
