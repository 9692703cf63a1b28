"""Sums over an LLM's blocks: Algorithm 1 (arXiv 2502.04412), hidden states, and the table of isolated word scores."""
