"""The client library that sends events."""
