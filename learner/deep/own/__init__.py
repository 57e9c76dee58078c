"""A network of your own: its source is found and hashed, its class is checked, trained and served."""
