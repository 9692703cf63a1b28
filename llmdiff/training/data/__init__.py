"""Data of a run, read from the store: batches of each rank, single encodings, their statistics."""
