"""Image-caption data: where rows come from, which pictures are usable, and how a shard gets into the store."""
