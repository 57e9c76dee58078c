"""Commands on a log or a state: produce, export, inspect, dead letters, forget."""
