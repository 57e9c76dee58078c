"""The stream: records, the log they travel in, and the roles' state."""
