"""Several models in one server: who answers whom, and what all of them predict."""
