"""A model on disk, by name and on the Hub."""
