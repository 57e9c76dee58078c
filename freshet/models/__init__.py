"""Commands on several models: shares, promotion, and which is better."""
