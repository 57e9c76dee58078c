"""What every floor of Freshet stands on: the root of all errors, keys, and the Bayesian kernel."""

from ground.errors import FreshetError

__all__ = ["FreshetError"]
