"""Opens the format of a source: the only module that knows all of them."""

import msgspec

from ground.clock import SYSTEM_CLOCK, Clock
from stream.sources.around import Around
from stream.sources.formats import Format, JsonFormat, MessagePackFormat
from stream.sources.settings import RegistrySettings, SourceSettings

KEYS_ARE = ("json", "msgpack")
"""Formats in which keys are read without a registry."""


def open_format(
    source: SourceSettings,
    registry: RegistrySettings,
    known: dict[int, bytes] | None = None,
    clock: Clock = SYSTEM_CLOCK,
    whole: bool = False,
) -> Format:
    """The format of a source.

    Args:
        known: digests of schemas by their ids, as `Format.schemas` returned them in an earlier run.
        whole: decode all fields, not only those that the source's paths name.

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

    wanted = [path for _, path in source.paths()] if source.envelope == "none" and not whole else []
    return ProtobufFormat(served, source.schema, source.message, wanted)


def open_around(
    source: SourceSettings,
    registry: RegistrySettings,
    known: dict[int, bytes] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Around | None:
    """What adds a source's keys and headers to its messages; None: it needs neither.

    Args:
        known: as in `open_format`.

    Raises:
        LogError: a library is missing.
    """
    named = [path for _, path in source.paths() if path.startswith("@@")]
    if not named and source.envelope != "cloudevents":
        return None
    keys = None
    if any(path.startswith("@@key") for path in named) and (source.format in KEYS_ARE or source.registry):
        # the schema file is that of values
        plain = msgspec.structs.replace(source, schema="", message="")
        keys = open_format(plain, registry, known, clock, whole=True)
    return Around(source, keys)
