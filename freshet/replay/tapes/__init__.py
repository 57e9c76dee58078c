"""What tapes are made of: the records of a log, and what is known of entities at each of them."""
