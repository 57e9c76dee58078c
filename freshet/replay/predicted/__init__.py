"""The predictions of a replay as a file: what each model said of each candidate, and how it turned out."""
