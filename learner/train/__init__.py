"""Predict, score, learn: whole requests, in order."""
