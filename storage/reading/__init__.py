"""Reading batches to train on."""
