"""A live copy of the model with its error memory, and how it answers."""
