"""Attributes of entities: what entity events say of items and people, as of any time."""
