"""Makes the embedded models again from nothing: ``python -m llmdiff.shapes.pretrain``."""
