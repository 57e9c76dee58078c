"""The table's memory: its arrays, its index, one slot, and what is evicted."""
