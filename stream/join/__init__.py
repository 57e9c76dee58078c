"""The joiner: events become decided examples."""
