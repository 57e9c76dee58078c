"""Records of others in Avro."""

import io

import fastavro


def datum(schema: object, record: object, references: list[object] | None = None) -> bytes:
    """A record without a head, with a schema that may refer to others."""
    named: dict[str, object] = {}
    for reference in references or []:
        fastavro.parse_schema(reference, named_schemas=named)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas=named), record)
    return out.getvalue()


def framed(number: int, data: bytes) -> bytes:
    """A record behind the head of a schema registry."""
    return b"\0" + number.to_bytes(4, "big") + data
