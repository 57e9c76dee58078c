"""`freshet init`: looks at a data file and writes a config."""
