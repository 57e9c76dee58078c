"""A live copy of the model with its error memory."""
