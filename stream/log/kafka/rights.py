"""What the cluster's access rules allow us, asked of the brokers without trying anything."""

from collections.abc import Sequence
from enum import Enum

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, TopicDescription

from stream.log.kafka.client import AuthorizationError, KafkaClient, result

CREATE = "CREATE"


def allowed_operations(client: KafkaClient, names: Sequence[str]) -> dict[str, frozenset[str]]:
    """The operations that are allowed on each topic of the cluster, by Kafka's names ("READ").

    A topic that does not exist has {"CREATE"} if we may create topics everywhere, else nothing. A topic that
    we may not even describe has nothing.

    Raises:
        LogError: the cluster does not answer, or refuses the question itself.
    """
    found = {name: _of_topic(client, name) for name in names}
    if None not in found.values():
        return {name: operations or frozenset() for name, operations in found.items()}
    creating = _of_cluster(client) & {CREATE}
    return {name: creating if operations is None else operations for name, operations in found.items()}


def _of_topic(client: KafkaClient, name: str) -> frozenset[str] | None:
    """None: it does not exist, or nobody says whether it does."""

    def describe(admin: AdminClient, timeout_s: float) -> TopicDescription | None:
        futures = admin.describe_topics(
            TopicCollection([name]), include_authorized_operations=True, request_timeout=timeout_s
        )
        try:
            return result(futures[name], timeout_s)
        except KafkaException as error:
            if error.args[0].name() == "UNKNOWN_TOPIC_OR_PART":
                return None
            raise

    try:
        described = client.call(f"asking for the rights on topic {name!r}", describe)
    except AuthorizationError:
        return frozenset()
    return None if described is None else _names(described.authorized_operations)


def _of_cluster(client: KafkaClient) -> frozenset[str]:
    def describe(admin: AdminClient, timeout_s: float) -> frozenset[str]:
        future = admin.describe_cluster(include_authorized_operations=True, request_timeout=timeout_s)
        return _names(result(future, timeout_s).authorized_operations)

    return client.call("asking for the rights on the cluster", describe)


def _names(operations: Sequence[Enum] | None) -> frozenset[str]:
    return frozenset(operation.name for operation in operations or ())
