"""Sharding by an entity: all examples of one user lie in one partition."""
