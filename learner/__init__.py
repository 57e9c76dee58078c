"""The learner: features, the model in its two parts, progressive metrics, and the loop that learns."""
