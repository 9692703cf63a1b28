"""The embedded world: scenes, pictures, captions, an exact judge, and the small models trained on them."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
DIFFUSION = WEIGHTS / "diffusion"
LLAMA = WEIGHTS / "llama"
PHI = WEIGHTS / "phi"
