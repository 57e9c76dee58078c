"""Data files and logs as sources of examples, and records as Parquet files."""
