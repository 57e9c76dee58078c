"""The training loop: predict, score, learn, whole requests in order."""
