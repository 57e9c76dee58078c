"""The fast part: a Bayesian linear model that learns event by event."""
