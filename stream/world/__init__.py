"""A simulated world of people, items and clicks."""
