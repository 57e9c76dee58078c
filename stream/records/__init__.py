"""The records in the topics: types, decoding, schemas."""
