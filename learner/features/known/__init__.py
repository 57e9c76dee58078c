"""Histories and rates: what the model itself keeps of an id, as of each request."""
