"""The synthetic shapes benchmark: scenes, pictures, captions, a rule-based evaluator, and small models of them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
DIFFUSION = WEIGHTS / "diffusion"
LLAMA = WEIGHTS / "llama"
PHI = WEIGHTS / "phi"
