"""Sections of the config that belong to no package below."""
