"""Shared by all packages: the root of all errors, keys, sparse rows, compiled kernels."""

from ground.errors import UNDECODABLE, FreshetError

__all__ = ["UNDECODABLE", "FreshetError"]
