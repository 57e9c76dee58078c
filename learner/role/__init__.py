"""The learner as a role: commits, leadership, standby."""
