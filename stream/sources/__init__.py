"""Topics of others: their formats, envelopes and fields, and the events that they become."""
