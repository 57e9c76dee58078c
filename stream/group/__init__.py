"""Group membership: who is there, told by heartbeats in topic `roles`."""
