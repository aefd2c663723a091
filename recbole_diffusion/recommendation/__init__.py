"""Recommendations for histories: from one to as many as there are."""
