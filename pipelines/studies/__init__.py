"""Studies of the paper's open questions on the embedded world: each a list of variants, and what is said of them."""
