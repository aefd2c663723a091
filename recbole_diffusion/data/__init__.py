"""Reading interaction files strictly and in exact time order."""
