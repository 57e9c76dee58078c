"""Live shards: processes that take turns, commit as one, and publish each its rows."""
