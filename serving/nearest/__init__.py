"""The best items for a context: an index of the model's items, and the search in it."""
