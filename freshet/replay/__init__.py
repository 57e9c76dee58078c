"""The live loop with a file or a log range as its source."""
