"""Deployments, launching, tracking and the registry."""
