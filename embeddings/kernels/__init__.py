"""Compiled loops over batches of ids: lookup, admission, expiry, reading, optimizers."""
