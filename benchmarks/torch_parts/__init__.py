"""Parts of benchmarks/torch_table.py."""
