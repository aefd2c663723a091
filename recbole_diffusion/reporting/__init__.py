"""A suite as one HTML page that needs nothing beside itself; neither RecBole nor torch."""
