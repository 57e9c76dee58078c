"""The table's Python interface."""
