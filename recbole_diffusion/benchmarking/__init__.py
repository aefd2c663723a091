"""Finished runs as tables: run folders read, models compared, tables written."""
