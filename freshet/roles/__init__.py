"""Roles wired to a log, as processes, and `freshet up`."""
