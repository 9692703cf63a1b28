"""Adapters in other people's programs. No part of the wheel: each folder is copied to where its program looks."""
