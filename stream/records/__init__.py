"""What travels in the topics: record types, decoding, schemas."""
