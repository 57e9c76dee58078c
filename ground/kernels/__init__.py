"""Compiled building blocks: prefetch, SIMD, hash mixing, and the Bayesian update of a weight."""
