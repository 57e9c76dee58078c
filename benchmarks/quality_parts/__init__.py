"""Parts of `quality.py` and `quality_public.py`: streams, runs of Freshet and of others, tables, a cache."""
