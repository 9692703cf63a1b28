"""Parts of the encode stage: checks, estimates, what earlier runs left, and the work itself."""
