"""Tables as people have them - text of any dialect, Parquet - on their way to atomic files."""
