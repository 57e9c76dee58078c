"""Data files and logs as sources of examples; records as Parquet files."""
