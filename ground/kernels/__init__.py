"""What Numba cannot say by itself, and the Bayesian step that the fast part and the error memory share."""
