"""The loop of a role, and what it does with records that cannot be used."""
