"""Bytes: paths, files, arrays, raw shards."""
