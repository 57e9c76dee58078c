"""Trials: features that are kept only if a sample of the file says that they gain."""
