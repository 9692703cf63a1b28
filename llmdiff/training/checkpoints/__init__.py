"""Checkpoints of a run: its state, the newest one that is complete, and a start from another run's weights."""
