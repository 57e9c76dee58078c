"""Commands around a log and a state: produce, export, inspect, dead letters, forget."""
