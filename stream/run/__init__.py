"""The loop of a role, and its dead letters."""
