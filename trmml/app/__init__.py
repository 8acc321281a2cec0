"""The page: to answer questions about photos, to learn from the answers, and to try a model."""
