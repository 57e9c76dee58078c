"""`freshet demo`: a simulated world played against live roles."""
