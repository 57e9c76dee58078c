"""Other ways to read or learn rows: by feature, packed, fetched for a prediction."""
