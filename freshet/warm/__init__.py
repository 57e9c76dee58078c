"""`freshet warm`: a model begins with vectors and weights that you have."""
