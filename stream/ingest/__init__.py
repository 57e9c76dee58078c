"""The role that reads sources: records of others in, events out, exactly once."""
