"""Tables larger than memory: rows that were not used for long rest in a database on disk."""
