"""The embedded log: one SQLite file, shared by several processes."""
