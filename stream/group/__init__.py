"""Group membership, from heartbeats in topic `roles`."""
