"""Parts of `table.py`: workloads, peers, speed, growth, plots; and the MovieLens options that others use."""
