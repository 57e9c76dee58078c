"""Avro by fastavro: with a schema registry, with a schema file, and in single-object encoding."""

import io
from collections.abc import Callable

import msgspec

from ground import UNDECODABLE
from stream.errors import LogError, RecordError
from stream.sources.formats import HOW_TO_INSTALL, MAGIC, Format, read_schema, split_head
from stream.sources.registry import Registry

try:
    import fastavro
    from fastavro.schema import SchemaParseException, fingerprint, to_parsing_canonical_form
except ImportError:
    raise LogError(f'format = "avro" needs fastavro, which is not there; {HOW_TO_INSTALL}') from None

SINGLE_OBJECT = b"\xc3\x01"
FINGERPRINT_BYTES = 8

AvroSchema = dict[str, object] | list[object] | str


class AvroFormat(Format):
    """Decodes records of Avro.

    Without a registry a record is a bare datum of the schema file, or in single-object encoding. With one,
    the schema file, if there is any, is the reader's: fields that a writer lacks get its defaults.

    Raises:
        LogError: the schema file cannot be used.
    """

    def __init__(self, registry: Registry | None, schema_file: str) -> None:
        self._registry = registry
        self._own: AvroSchema | None = None
        self._mark = b""
        if schema_file:
            self._own = _parse_own(schema_file)
            canonical = to_parsing_canonical_form(self._own)
            self._mark = bytes.fromhex(fingerprint(canonical, "CRC-64-AVRO"))[::-1]
        self._by_id: dict[int, AvroSchema] = {}
        self._read = fastavro.schemaless_reader

    def decode(self, value: bytes) -> object:
        if self._registry is None:
            assert self._own is not None
            return self._decode_own(value, self._own)
        number = int.from_bytes(value[1:5], "big")
        schema = self._by_id.get(number)
        if schema is None or value[0] != MAGIC or len(value) < 5:
            number, _ = split_head(value)
            schema = self._schema(number)
        stream = io.BytesIO(value)
        stream.seek(5)
        return self._datum(stream, schema, self._own, f"schema id {number}", len(value))

    def schemas(self) -> dict[int, bytes]:
        return self._registry.digests if self._registry is not None else {}

    def close(self) -> None:
        if self._registry is not None:
            self._registry.close()

    def _decode_own(self, value: bytes, schema: AvroSchema) -> object:
        stream = io.BytesIO(value)
        if value.startswith(SINGLE_OBJECT):
            if value[2:10] != self._mark:
                raise RecordError(
                    f"the record was written with another schema (fingerprint {value[2:10].hex()}) than the "
                    f"file's ({self._mark.hex()})"
                )
            stream.seek(2 + FINGERPRINT_BYTES)
        return self._datum(stream, schema, None, "the schema file", len(value))

    def _datum(
        self, stream: io.BytesIO, writer: AvroSchema, reader: AvroSchema | None, what: str, size: int
    ) -> object:
        try:
            found = self._read(stream, writer, reader)
        except Exception as error:  # whatever damaged bytes do to it
            raise RecordError(
                f"the record does not fit {what}: {type(error).__name__} {error}".rstrip()
            ) from None
        if stream.tell() != size:
            raise RecordError(f"the record has {size - stream.tell()} bytes more than {what} says")
        return found

    def _schema(self, number: int) -> AvroSchema:
        assert self._registry is not None
        found = self._registry.get(number)
        if found.kind != "AVRO":
            raise RecordError(f"schema id {number} is of type {found.kind}; expected AVRO")
        try:
            named: dict[str, AvroSchema] = {}
            for _, text in found.references:
                _parse(text, named)
            parsed = _parse(found.text, named)
        except (SchemaParseException, ValueError, KeyError, TypeError, *UNDECODABLE) as error:
            raise RecordError(f"schema id {number} is no schema of Avro: {error}") from None
        if len(self._by_id) >= 1_000:
            self._by_id.clear()
        self._by_id[number] = parsed
        return parsed


def _parse(text: str | bytes, named: dict[str, AvroSchema]) -> AvroSchema:
    parse: Callable[..., AvroSchema] = fastavro.parse_schema
    return parse(msgspec.json.decode(text), named_schemas=named)


def _parse_own(file: str) -> AvroSchema:
    text = read_schema(file)
    try:
        return _parse(text, {})
    except (SchemaParseException, ValueError, KeyError, TypeError, *UNDECODABLE) as error:
        raise LogError(f"schema {file}: it is no schema of Avro: {error}") from None
