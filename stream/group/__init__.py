"""Which members of a role are there, by the beats that they send."""
