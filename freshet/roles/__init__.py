"""Roles wired to a log, as processes; `freshet up`."""
