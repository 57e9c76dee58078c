"""What the cluster's access rules allow us, asked of the brokers without trying anything."""

from collections.abc import Sequence
from enum import Enum

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from stream.log.kafka.client import ANY_TOPIC, KafkaClient, ask, result

CREATE = "CREATE"
_ANSWERS: dict[int, frozenset[str] | None] = {
    KafkaError.UNKNOWN_TOPIC_OR_PART: None,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: frozenset(),
}
"""What an error says of a topic, where it is an answer."""


def allowed_operations(client: KafkaClient, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The operations that are allowed on each topic of the cluster, by Kafka's names ("READ").

    A topic that does not exist has {"CREATE"} if we may create topics everywhere, else nothing. A topic that
    we may not even describe has nothing.

    Raises:
        LogError: the cluster does not answer, or refuses the question itself.
    """
    found = client.call(
        "asking for the rights on topics", lambda admin, timeout_s: _of_topics(admin, timeout_s, names)
    )
    missing = [name for name, operations in found.items() if operations is None]
    creating = _of_cluster(client) & {CREATE} if missing else frozenset()
    return {name: creating if operations is None else operations for name, operations in found.items()}


def _of_topics(
    admin: AdminClient, timeout_s: float, names: Sequence[str]
) -> dict[str, frozenset[str] | None]:
    """Of each topic; None: it does not exist."""
    ask(admin, ANY_TOPIC, timeout_s)
    described = admin.describe_topics(
        TopicCollection(list(names)), include_authorized_operations=True, request_timeout=timeout_s
    )
    found: dict[str, frozenset[str] | None] = {}
    for name, future in described.items():
        try:
            found[name] = _names(result(future, timeout_s).authorized_operations)
        except KafkaException as error:
            if error.args[0].code() not in _ANSWERS:
                raise
            found[name] = _ANSWERS[error.args[0].code()]
    return found


def _of_cluster(client: KafkaClient) -> frozenset[str]:
    def describe(admin: AdminClient, timeout_s: float) -> frozenset[str]:
        ask(admin, ANY_TOPIC, timeout_s)
        future = admin.describe_cluster(include_authorized_operations=True, request_timeout=timeout_s)
        return _names(result(future, timeout_s).authorized_operations)

    return client.call("asking for the rights on the cluster", describe)


def _names(operations: Sequence[Enum] | None) -> frozenset[str]:
    return frozenset(operation.name for operation in operations or ())
