"""Photos and label tables: from files of users to tensors and labels in three states."""
