"""Names in the registry; needs no MLflow, so the command line's help has them at once."""

MODEL = "llmdiff-adapter"
"""The registered model whose versions are the trained adapters."""
SCHEME = "models:/"
"""Beginning of the address of a version."""
CANDIDATE = f"{SCHEME}{MODEL}@candidate"
