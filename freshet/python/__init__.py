"""The model in Python: predict, learn and save, without a log and without roles."""
