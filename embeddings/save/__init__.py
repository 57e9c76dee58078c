"""Copies of a table: deltas, snapshots, folders of snapshots."""
