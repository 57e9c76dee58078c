"""What every floor of Freshet stands on: the root of all errors, keys, and the Bayesian kernel."""

from ground.errors import FreshetError
from ground.keys import hash_string, string_keys

__all__ = ["FreshetError", "hash_string", "string_keys"]
