"""What joiners note of producers: whether their actions meet impressions, and where their keys lie."""
