"""Label tables and photos: what is known of each photo, in three states."""
