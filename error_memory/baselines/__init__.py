"""Memories to compare with: ReLoop2's sketch, nearest neighbours, none."""
