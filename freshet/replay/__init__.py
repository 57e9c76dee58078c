"""The live loop with a file or a log as its source."""
