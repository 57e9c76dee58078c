"""A role's state: what it knows, has consumed and wants sent, in one atomic write."""
