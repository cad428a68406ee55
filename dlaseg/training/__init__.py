"""Training: trainer, tasks, losses, checkpoints."""
