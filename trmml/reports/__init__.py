"""Pictures, pages and columns for people; knows nothing of models."""
