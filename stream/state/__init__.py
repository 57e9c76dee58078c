"""A role's state: data, offsets and outbox in one atomic write."""
