"""The deep part: networks that learn the fast part's residual."""
