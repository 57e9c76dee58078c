"""A Kafka cluster as the log."""
