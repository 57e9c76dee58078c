"""From a request's values to the entries that the model reads."""
