"""The embedded log: one SQLite file, which several processes may use."""
