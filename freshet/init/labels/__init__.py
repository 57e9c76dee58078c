"""The label among a file's columns, and the labels of further targets."""
