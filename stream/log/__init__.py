"""The log, the only channel between roles: its contract, and `open_log`."""
