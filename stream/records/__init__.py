"""What travels in the topics: the types of records, and their bytes."""
