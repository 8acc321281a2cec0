"""The Hugging Face Hub: files of a repository, in and out. Knows nothing of models."""
