"""Prefect flows: each a table of contents of its stage."""
