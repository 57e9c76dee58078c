"""Replication: updates and snapshots, who may write them, and who follows them."""
