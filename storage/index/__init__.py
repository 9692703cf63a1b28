"""The index: a Delta Lake table and its log."""
