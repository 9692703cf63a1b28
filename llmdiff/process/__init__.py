"""Processes of our own programs: how they start and end, and the ports that they meet at."""
