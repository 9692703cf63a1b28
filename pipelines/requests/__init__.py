"""One typed request a stage: what the command line fills, the flow takes, the job carries and the run saves.

Cheap to import: no torch, no Prefect and no MLflow, so that help answers at once.
"""
