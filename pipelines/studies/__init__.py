"""Studies of the paper's open questions on the shapes benchmark: each a list of variants, and what is said of them."""
