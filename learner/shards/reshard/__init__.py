"""Resharding: the states of N shards become those of M, without losing or repeating an example."""
