"""The access rules that the roles need on a Kafka cluster: as commands, and compared with what there is.

The table holds all that is needed: a test runs each role with the rights of its line and no others.
"""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from freshet.config import Config
from freshet.errors import ConfigError
from freshet.roles.opening import topics_of
from stream.log.base import DEAD_LETTERS, EVENTS, EXAMPLES, MATCHES, ROLES, SNAPSHOTS, UPDATES
from stream.orders.names import MAIN, OWN_TOPICS, own_name
from stream.orders.orders import MODELS

TOPICS = (EVENTS, EXAMPLES, UPDATES, SNAPSHOTS, DEAD_LETTERS, ROLES, MATCHES, MODELS)
_LOOK_UP = dict.fromkeys(TOPICS, "DESCRIBE")  # at its start every role looks up all topics
_CHECK = dict.fromkeys(TOPICS, "DESCRIBE_CONFIGS")  # and how they are set up

NEEDED: Mapping[str, Mapping[str, str]] = {
    "join": {
        **_LOOK_UP,
        EVENTS: "READ WRITE",
        EXAMPLES: "READ WRITE",
        MATCHES: "WRITE",
        DEAD_LETTERS: "WRITE",
        ROLES: "READ WRITE",
    },
    "learn": {
        **_LOOK_UP,
        EXAMPLES: "READ",
        UPDATES: "READ WRITE",
        SNAPSHOTS: "READ WRITE",
        MODELS: "READ",
        DEAD_LETTERS: "WRITE",
        ROLES: "READ WRITE",
    },
    "serve": {
        **_LOOK_UP,
        EVENTS: "READ WRITE",
        EXAMPLES: "READ",
        UPDATES: "READ",
        SNAPSHOTS: "READ",
        DEAD_LETTERS: "READ",
        ROLES: "READ WRITE",
        MODELS: "READ WRITE",
    },
    "ingest": {
        **_LOOK_UP,
        EVENTS: "WRITE",
        MATCHES: "READ WRITE",
        DEAD_LETTERS: "WRITE",
        ROLES: "READ WRITE",
    },
    "produce": {EVENTS: "WRITE"},
}
"""Operations by role and topic; READ and WRITE include DESCRIBE. Ingest reads its sources' topics too."""

HELPFUL: Mapping[str, Mapping[str, str]] = {
    "join": _CHECK,
    "learn": {**_CHECK, **dict.fromkeys((UPDATES, SNAPSHOTS), "DESCRIBE_CONFIGS DELETE")},
    "serve": _CHECK,
    "ingest": _CHECK,
    "produce": {EVENTS: "DESCRIBE_CONFIGS"},
}
"""What a role can do without: it warns once and goes on."""

GROUPS = {"join": "join", "learn": "learn"}
"""Group in which a role commits its offsets for lag tools; READ on it is helpful."""


class Missing(NamedTuple):
    """Rights that are missing: each as "WRITE on shop.events (join, serve)"."""

    needed: list[str]
    helpful: list[str]


def roles_of(config: Config) -> tuple[str, ...]:
    """The roles that run with this config."""
    return ("join", "learn", "serve", *(("ingest",) if config.sources else ()))


def missing_rights(config: Config, allowed: Mapping[str, frozenset[str]]) -> Missing:
    """Compare the table with what a cluster allows.

    Args:
        allowed: operations by topic, as `Log.allowed` gives them; topics that do not exist have CREATE.
    """
    _, prefix = _cluster(config.log)
    return Missing(
        *(
            [
                f"{operation} on {topic_name(prefix, topic)} ({', '.join(who)})"
                for (topic, operation), who in _by_topic(table, roles_of(config), topics_of(config)).items()
                if operation not in allowed.get(topic, frozenset()) and "CREATE" not in allowed.get(topic, ())
            ]
            for table in (NEEDED, HELPFUL)
        )
    )


def acl_commands(config: Config, principal: str, roles: Sequence[str]) -> Iterator[str]:
    """Commands of Kafka's own kafka-acls.sh that give a principal ("User:freshet") the rights of roles.

    Raises:
        ConfigError: the log is no Kafka cluster, or the principal is none.
    """
    if not config.log.lower().startswith("kafka:"):
        raise ConfigError(f"log is {config.log!r}: only a Kafka cluster has access rules")
    kind, _, name = principal.partition(":")
    if not kind or not name:
        raise ConfigError(f"principal is {principal!r}; expected TYPE:NAME, for instance User:freshet")
    servers, prefix = _cluster(config.log)
    begin = ["kafka-acls.sh", "--bootstrap-server", ",".join(servers)]
    begin += ["--add", "--allow-principal", principal]
    rights: dict[str, list[str]] = {}
    for table in (NEEDED, HELPFUL):
        for topic, operation in _by_topic(table, roles, topics_of(config)):
            rights.setdefault(topic, []).append(operation)
    for topic, operations in rights.items():
        what = [part for operation in operations for part in ("--operation", _spelled(operation))]
        yield shlex.join([*begin, *what, "--topic", topic_name(prefix, topic)])
    for role in roles:
        for model in (MAIN, *config.models) if role == "learn" else (MAIN,):
            if role in GROUPS:
                group = topic_name(prefix, own_name(GROUPS[role], model))
                yield shlex.join([*begin, "--operation", "Read", "--group", group])


def topic_name(prefix: str, topic: str) -> str:
    """The name in the cluster."""
    return f"{prefix}.{topic}" if prefix else topic


def _cluster(url: str) -> tuple[list[str], str]:
    """Its servers and the prefix of its topics."""
    from stream.log.kafka.log import parse_url  # loads the Kafka client, which other logs do without

    return parse_url(url)


def _by_topic(
    table: Mapping[str, Mapping[str, str]], roles: Sequence[str], topics: Collection[str]
) -> dict[tuple[str, str], list[str]]:
    """{(topic, operation): the roles that use it}. Of the topics that each model has, all are meant."""
    found: dict[tuple[str, str], list[str]] = {}
    for role in roles:
        for kind, operations in table[role].items():
            for topic in topics:
                if topic == kind or (kind in OWN_TOPICS and topic.startswith(f"{kind}.")):
                    for operation in operations.split():
                        found.setdefault((topic, operation), []).append(role)
    return found


def _spelled(operation: str) -> str:
    """As kafka-acls.sh spells it: "DescribeConfigs"."""
    return "".join(word.capitalize() for word in operation.split("_"))
