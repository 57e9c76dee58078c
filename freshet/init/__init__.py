"""`freshet init`: a config from a look at a data file."""
