"""The HTTP protocol: connections, access rules, idempotency, OpenAPI."""
