"""The whole model: predict, explain, explore, forget."""
