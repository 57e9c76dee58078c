"""The deep part: a network trained on the residual of the fast part."""
