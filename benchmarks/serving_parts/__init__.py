"""Parts of `serving.py`: the server under test and the load generator."""
