"""Recommendations over HTTP: requests, batches of them, metrics, and an end that loses none."""
