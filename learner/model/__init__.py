"""The model as a whole: predict, explain, explore, forget."""
