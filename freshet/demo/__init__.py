"""`freshet demo`: a simulated world plays against live roles."""
