"""Writing a shard and committing it."""
