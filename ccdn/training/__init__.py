"""Training: faces, batches, schedule, checkpoints, records and the loop."""
