"""The default memory: a Bayesian model of what the base has not learned yet."""
