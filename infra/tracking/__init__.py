"""MLflow: runs, the registry, lineage."""
