"""What one does with a trained model: predict, complete a table, export."""
