"""Encodings as they add up while the LLM runs: Algorithm 1 (arXiv 2502.04412), states, and the table of words alone."""
