"""Fine-tuning: frozen features, the loss of a step, the run on disk."""
