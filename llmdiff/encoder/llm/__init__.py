"""The LLM: loading, hashing, quantising and compiling it, facts of its family, and its blocks' scores in a pass."""
