"""Replication: the format of updates and snapshots, their publisher and their followers."""
