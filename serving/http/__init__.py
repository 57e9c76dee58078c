"""HTTP/1.1 by itself: frames, connections, access, idempotency, the API's description."""
