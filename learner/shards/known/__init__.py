"""Histories and rates in shards: whose a turn needs, and how what several shards made of one is added up."""
