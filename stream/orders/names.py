"""Names of models, and of what each has of its own in a log that it shares with others."""

from stream.log.base import SNAPSHOTS, UPDATES

MAIN = "main"
"""The model of the config itself. Its topics, groups and folders have no suffix, as if it were alone."""
BY_SHARES = "freshet"
"""What clients of the Open Inference Protocol call whichever model answers by its share. No model's name."""
OWN_TOPICS = (UPDATES, SNAPSHOTS)
"""Of each model; all other topics are shared."""


def own_name(name: str, model: str) -> str:
    """The name of a topic, group or folder that each model has one of.

    >>> own_name("updates", "main"), own_name("updates", "challenger")
    ('updates', 'updates.challenger')
    """
    return name if model in ("", MAIN) else f"{name}.{model}"
