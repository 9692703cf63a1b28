"""Optimisers of the adapter under any ZeRO stage, their rate, and the average of what they train."""
