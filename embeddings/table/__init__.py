"""The table as Python sees it."""
