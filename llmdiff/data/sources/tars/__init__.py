"""Tar files as sources of rows: WebDataset shards, and what tools leave beside them."""
