"""The LLM: how it is loaded, what is known of its family, and where its blocks' scores are taken from its pass."""
