"""Flows and the command line: each stage as a Prefect flow, run in-process or from a deployment."""
