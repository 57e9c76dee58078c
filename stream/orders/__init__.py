"""Orders: records in topic `models` that say which model answers whom, and to where a model goes back."""
