"""Copies of a table: deltas, snapshots, and folders of them."""
