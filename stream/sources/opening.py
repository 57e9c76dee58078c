"""Opens the format of a source: the only module that knows all of them."""

from ground.clock import SYSTEM_CLOCK, Clock
from stream.sources.formats import Format, JsonFormat, MessagePackFormat
from stream.sources.settings import RegistrySettings, SourceSettings


def open_format(
    source: SourceSettings,
    registry: RegistrySettings,
    known: dict[int, bytes] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Format:
    """The format of a source.

    Args:
        known: digests of schemas by their ids, as `Format.schemas` returned them in an earlier run.

    Raises:
        LogError: a library is missing, or a schema file cannot be read.
    """
    if source.format == "json":
        return JsonFormat()
    if source.format == "msgpack":
        return MessagePackFormat()
    # libraries are loaded only where they are used
    from stream.sources.registry import Registry

    served = Registry(source.registry, registry, known or {}, clock) if source.registry else None
    if source.format == "avro":
        from stream.sources.avro import AvroFormat

        return AvroFormat(served, source.schema)
    from stream.sources.protobuf import ProtobufFormat

    wanted = [path for _, path in source.paths()] if source.envelope == "none" else []
    return ProtobufFormat(served, source.schema, source.message, wanted)
