"""Token ids to weights: the loss, the trainer, checkpoints, experiment tracking."""
