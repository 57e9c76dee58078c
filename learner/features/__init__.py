"""Encoding: from the values of a request to the entries that the model reads."""
