"""Other ways to read or train rows: by feature, packed, fetched for a prediction."""
