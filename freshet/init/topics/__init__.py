"""Topics of others: a sample of their records, and the sources that they can be."""
