"""The fast part: a Bayesian linear model, updated by each event."""
