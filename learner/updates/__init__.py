"""Replication: format of updates and snapshots, who writes them, who follows."""
