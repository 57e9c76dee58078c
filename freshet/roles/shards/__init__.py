"""The learner in shards: the process of one, and the command that starts them and starts them again."""
