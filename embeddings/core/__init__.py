"""The table's memory: arrays, index, slots, eviction."""
