"""Worlds of `benchmarks/targets.py`, and the best that can be known of them."""
