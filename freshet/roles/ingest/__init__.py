"""The role that reads the sources of others: its threads, its metrics."""
