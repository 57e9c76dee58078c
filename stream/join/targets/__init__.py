"""Several targets of a request, each decided in its own time."""
