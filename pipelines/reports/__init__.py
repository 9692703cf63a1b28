"""Pages: the demonstration's report, evaluations, lineage."""
