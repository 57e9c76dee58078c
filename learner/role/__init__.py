"""The learner as a role: what it commits, and who leads."""
