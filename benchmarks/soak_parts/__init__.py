"""Parts of `soak.py`: its world, the two runs, what they measure, and the plot."""
