"""Protobuf by Google's library: with a schema registry, or with a descriptor file and a message's name."""

import base64
import binascii
from collections.abc import Callable, Collection, Iterable
from datetime import UTC
from typing import Any

from stream.errors import LogError, RecordError
from stream.sources.formats import HOW_TO_INSTALL, MAGIC, Format, read_schema, split_head
from stream.sources.paths import split_path
from stream.sources.proto_text import compile_proto
from stream.sources.registry import FoundSchema, Registry

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import DecodeError, Message
except ImportError:
    raise LogError(f'format = "protobuf" needs protobuf, which is not there; {HOW_TO_INSTALL}') from None

NESTED_MAX = 8  # levels of a message within itself
INDEXES_MAX = 32
FILES_MAX = 200  # schemas whose files are kept

_TIMESTAMP = "google.protobuf.Timestamp"
_WRAPPERS = "google.protobuf."
_STRUCTURES = ("google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue")

Given = Any
"""A field of a message: a message, a number, text, a list, a map."""

Plain = Callable[[Given], object]
Tree = dict[str, "Tree"]
"""The wanted fields, level by level; empty: all."""


class ProtobufFormat(Format):
    """Decodes records of Protobuf to dicts with the wanted fields, by their names in the schema.

    A field that is not set is None if the schema says whether it is set, else its default. An enum is its
    value's name, a Timestamp an aware datetime.

    Raises:
        LogError: the descriptor file cannot be used.
    """

    def __init__(
        self, registry: Registry | None, schema_file: str, message: str, paths: Collection[str]
    ) -> None:
        self._registry = registry
        self._wanted = tree_of(paths)
        self._own: tuple[type[Message], Plain] | None = None
        if schema_file:
            self._own = self._plan(_find(read_schema(schema_file), schema_file, message))
        self._files: dict[int, list[descriptor_pb2.FileDescriptorProto] | str] = {}  # or why it has none
        self._by_type: dict[tuple[int, tuple[int, ...]], tuple[type[Message], Plain]] = {}

    def decode(self, value: bytes) -> object:
        kind, plain = self._own or (None, None)
        what = "the message of the .desc file"
        if value[:1] == bytes([MAGIC]) or self._own is None:
            number, rest = split_head(value)
            indexes, value = split_indexes(rest)
            what = f"schema id {number}"
            if self._own is None:
                kind, plain = self._by_type.get((number, indexes)) or self._of_registry(number, indexes)
        assert kind is not None and plain is not None
        try:
            return plain(kind.FromString(value))
        except (DecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"the record does not fit {what}: {error}") from None

    def schemas(self) -> dict[int, bytes]:
        return self._registry.digests if self._registry is not None else {}

    def close(self) -> None:
        if self._registry is not None:
            self._registry.close()

    def _of_registry(self, number: int, indexes: tuple[int, ...]) -> tuple[type[Message], Plain]:
        assert self._registry is not None
        found = self._registry.get(number, serialized=True)
        if found.kind != "PROTOBUF":
            raise RecordError(f"schema id {number} is of type {found.kind}; expected PROTOBUF")
        try:
            descriptor = _by_index(self._files_of(number, found), indexes)
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise RecordError(f"schema id {number} has no usable message {list(indexes)}: {error}") from None
        if len(self._by_type) >= 1_000:
            self._by_type.clear()
        plan = self._by_type[number, indexes] = self._plan(descriptor)
        return plan

    def _files_of(self, number: int, found: FoundSchema) -> list[descriptor_pb2.FileDescriptorProto]:
        """The files of a schema, its own last; compiling them once, whether it works or not."""
        files = self._files.get(number)
        if files is None:
            try:
                files = _given_compiled(found) or _files_in(compile_proto(found.text, found.references))
            except RecordError as error:
                files = str(error)
            if len(self._files) >= FILES_MAX:
                self._files.clear()
            self._files[number] = files
        if isinstance(files, str):
            raise RecordError(f"schema id {number}: {files}")
        return files

    def _plan(self, descriptor: Descriptor) -> tuple[type[Message], Plain]:
        return message_factory.GetMessageClass(descriptor), _plain_message(
            descriptor, self._wanted, NESTED_MAX
        )


def split_indexes(data: bytes) -> tuple[tuple[int, ...], bytes]:
    """(which message of the schema, the rest): a length and numbers as zigzag varints; 0 is the first one.

    >>> split_indexes(b"\\x00xy"), split_indexes(b"\\x04\\x02\\x00z")
    (((0,), b'xy'), ((1, 0), b'z'))

    Raises:
        RecordError: the record does not begin with such indexes.
    """
    count, at = _varint(data, 0)
    if count == 0:
        return (0,), data[at:]
    if not 0 < count <= INDEXES_MAX:
        raise RecordError(f"the record names a message at {count} levels; expected 1 to {INDEXES_MAX}")
    indexes = []
    for _ in range(count):
        index, at = _varint(data, at)
        indexes.append(index)
    return tuple(indexes), data[at:]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise RecordError("the record ends within the indexes that name its message")


def tree_of(paths: Iterable[str]) -> Tree:
    """The fields that some paths need, level by level: paths within a candidate may begin anywhere.

    >>> sorted(tree_of(["session.user", "items"]))
    ['items', 'session', 'user']
    """
    return {step: {} for path in paths for step in split_path(path)[0]}


def _plain_message(descriptor: Descriptor, wanted: Tree, levels: int) -> Plain:
    """A function from a message of this type to a plain value."""
    name = descriptor.full_name
    if name == _TIMESTAMP:
        return _timestamp
    if name in _STRUCTURES:
        return json_format.MessageToDict
    if name.startswith(_WRAPPERS) and name.endswith("Value"):
        return _wrapped
    fields = []
    for field in descriptor.fields:
        if levels > 0 and (not wanted or field.name in wanted or "." in wanted):
            fields.append((field.name, field.has_presence, _plain_field(field, wanted, levels)))

    def plain(message: Given) -> object:
        found: dict[str, object] = {}
        for field_name, has_presence, convert in fields:
            if has_presence and not message.HasField(field_name):
                found[field_name] = None
            else:
                value = getattr(message, field_name)
                found[field_name] = value if convert is None else convert(value)
        return found

    return plain


def _plain_field(field: FieldDescriptor, wanted: Tree, levels: int) -> Plain | None:
    """A function from a field's value to a plain value; None: it is one already."""
    one: Plain | None = None
    if field.message_type is not None:
        options = field.message_type.GetOptions()
        if options.map_entry:
            value = _plain_field(field.message_type.fields_by_name["value"], {}, levels - 1)
            return lambda entries: {
                key: entries[key] if value is None else value(entries[key]) for key in entries
            }
        one = _plain_message(field.message_type, wanted, levels - 1)
    elif field.enum_type is not None:
        names = {number: found.name for number, found in field.enum_type.values_by_number.items()}

        def one(number: int) -> object:
            return names.get(number, number)

    if field.is_repeated:
        return list if one is None else lambda values: [one(value) for value in values]
    return one


def _timestamp(message: Given) -> object:
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise RecordError(f"a Timestamp is out of range: {error}") from None


def _wrapped(message: Given) -> object:
    return message.value


def _files_in(compiled: bytes) -> list[descriptor_pb2.FileDescriptorProto]:
    return list(descriptor_pb2.FileDescriptorSet.FromString(compiled).file)


def _given_compiled(found: FoundSchema) -> list[descriptor_pb2.FileDescriptorProto] | None:
    """The files of a schema, its own last; None: the registry gave their text, although asked for more."""
    files = []
    for name, text in [*found.references, ("", found.text)]:
        try:
            file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
        except (DecodeError, ValueError, binascii.Error):
            return None
        file.name = name or file.name or "record.proto"
        files.append(file)
    return files


def _by_index(files: list[descriptor_pb2.FileDescriptorProto], indexes: tuple[int, ...]) -> Descriptor:
    pool = _pool(files)
    messages = pool.FindFileByName(files[-1].name)
    proto = files[-1].message_type[indexes[0]]
    descriptor = messages.message_types_by_name[proto.name]
    for index in indexes[1:]:
        proto = proto.nested_type[index]
        descriptor = descriptor.nested_types_by_name[proto.name]
    return descriptor


def _find(data: bytes, file: str, message: str) -> Descriptor:
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(data).file
        return _pool(list(files)).FindMessageTypeByName(message)
    except KeyError:
        known = sorted(
            f"{f.package}.{m.name}" if f.package else m.name for f in files for m in f.message_type
        )
        raise LogError(
            f"schema {file}: it has no message {message!r}; it has {', '.join(known[:20])}"
        ) from None
    except (DecodeError, TypeError) as error:
        raise LogError(
            f"schema {file}: it is no descriptor file ({error}); make one with protoc "
            "--descriptor_set_out=x.desc --include_imports"
        ) from None


def _pool(files: list[descriptor_pb2.FileDescriptorProto]) -> descriptor_pool.DescriptorPool:
    """A pool with these files, and those of Google's own that they import."""
    from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()
    given = {file.name for file in files}
    for module in (any_pb2, duration_pb2, struct_pb2, timestamp_pb2, wrappers_pb2):
        if module.DESCRIPTOR.name not in given:
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return pool
