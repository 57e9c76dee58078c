"""Replay: the live loop over a file or a range of the log."""
