"""Train the embedded models anew from nothing: ``python -m llmdiff.shapes.pretrain``."""
