"""Shards: N learners begin a turn from one state, and what they learned is added up."""
