"""Schemas by their ids, from a registry with Confluent's API (Confluent, Apicurio, Karapace, Redpanda).

A consumer needs two requests of it: a schema by its id, whatever the subject strategy of its producers, and
the schemas that it refers to. Schemas never change, so what was fetched is kept.
"""

import logging
import os
from collections import OrderedDict
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import xxhash

from ground import UNDECODABLE
from ground.clock import SYSTEM_CLOCK, Clock
from stream.errors import LogAwayError, LogError, RecordError
from stream.sources.settings import RegistrySettings

PASSWORD = "FRESHET_REGISTRY_PASSWORD"
UNKNOWN_S = 10.0  # how long an unknown id is not asked for again
REFERENCES_MAX = 200  # schemas that one schema may need
DIGESTS_MAX = 10_000
BYTES_MAX = 8 << 20  # of an answer

_log = logging.getLogger("freshet.registry")


class Reference(msgspec.Struct, frozen=True):
    """A schema that another one refers to."""

    name: str
    subject: str
    version: int


class _Answer(msgspec.Struct):
    schema: str
    kind: str = msgspec.field(default="AVRO", name="schemaType")
    references: list[Reference] | None = None


class FoundSchema(msgspec.Struct, frozen=True):
    """A schema with all that it refers to, those first."""

    kind: str  # AVRO, PROTOBUF, JSON
    text: str
    references: list[tuple[str, str]]  # (name, text)


class _Problem(msgspec.Struct):
    error_code: int
    message: str = ""


class Registry:
    """A client of one registry. Of one thread.

    Args:
        known: digests of schemas by their ids, as `digests` had them in an earlier run.
    """

    def __init__(
        self, url: str, settings: RegistrySettings, known: dict[int, bytes], clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """A client; nothing is asked yet.

        Raises:
            LogError: a file of the settings cannot be read.
        """
        self.url = url.rstrip("/")
        self.digests = dict(known)
        self._settings = settings
        self._clock = clock
        self._found: OrderedDict[int, FoundSchema] = OrderedDict()
        self._unknown: dict[int, float] = {}
        auth = (settings.user, self._password()) if settings.user else None
        try:
            self._client = httpx.Client(
                auth=auth,
                timeout=httpx.Timeout(settings.away_after_s),
                verify=settings.ca_file or True,
                headers={"Accept": "application/vnd.schemaregistry.v1+json, application/json"},
                trust_env=False,
            )
        except OSError as error:
            raise LogError(f"ingest.registry.ca_file = {settings.ca_file}: {error}") from None

    def get(self, number: int, serialized: bool = False) -> FoundSchema:
        """A schema by its id.

        Args:
            serialized: a schema of Protobuf as base64 of its FileDescriptorProto.

        Raises:
            RecordError: the registry does not know it.
            LogAwayError: the registry does not answer, or fails.
            LogError: it refuses us, or gives another schema than in an earlier run.
        """
        found = self._found.get(number)
        if found is not None:
            self._found.move_to_end(number)
            return found
        if self._unknown.get(number, float("-inf")) > self._clock.now_s():
            raise self._no_schema(number)
        form = "?format=serialized" if serialized else ""
        answer = self._ask(f"/schemas/ids/{number}{form}")
        if answer is None:
            if len(self._unknown) >= self._settings.cached_max:
                self._unknown.clear()
            self._unknown[number] = self._clock.now_s() + UNKNOWN_S
            raise self._no_schema(number)
        references: dict[str, str] = {}
        self._follow(answer.references or [], references, form)
        found = FoundSchema(answer.kind, answer.schema, list(references.items()))
        self._check_same(number, found)
        self._found[number] = found
        if len(self._found) > self._settings.cached_max:
            self._found.popitem(last=False)
        return found

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _follow(self, references: list[Reference], found: dict[str, str], form: str) -> None:
        for reference in references:
            if reference.name in found:
                continue
            if len(found) >= REFERENCES_MAX:
                raise RecordError(
                    f"registry {self.url}: a schema refers to more than {REFERENCES_MAX} others"
                )
            subject = quote(reference.subject, safe="")
            answer = self._ask(f"/subjects/{subject}/versions/{reference.version}{form}")
            if answer is None:
                raise RecordError(
                    f"registry {self.url} does not have version {reference.version} of subject "
                    f"{reference.subject!r}, which a schema refers to"
                )
            self._follow(answer.references or [], found, form)
            found[reference.name] = answer.schema

    def _ask(self, path: str) -> _Answer | None:
        """The answer; None: there is no such schema."""
        headers = {"Authorization": f"Bearer {self._token()}"} if self._settings.token_file else {}
        try:
            with self._client.stream("GET", self.url + path, headers=headers) as response:
                body = b""
                deadline_s = self._clock.now_s() + self._settings.away_after_s
                for piece in response.iter_bytes():
                    body += piece
                    if len(body) > BYTES_MAX or self._clock.now_s() > deadline_s:
                        raise self._away(f"its answer to {path} does not end")
                status = response.status_code
        except (httpx.TransportError, httpx.InvalidURL, httpx.DecodingError) as error:
            raise self._away(f"{type(error).__name__}: {error}") from None
        if status == 404 and _is_unknown(body):
            return None
        if status in (401, 403):
            how = "ingest.registry.user and password_file, or token_file"
            raise LogError(f"registry {self.url} answers {status}: it refuses the log-in; see {how}")
        if status in (408, 429) or status >= 500:
            raise self._away(f"it answers {status} to {path}")
        try:
            if status == 200:
                return msgspec.json.decode(body, type=_Answer)
        except UNDECODABLE:
            pass
        raise LogError(
            f"registry {self.url} answers {status} to {path}, and not as Confluent's API does: the URL is not"
            " the registry's, or lacks a part (Apicurio: http://HOST:PORT/apis/ccompat/v7)"
        )

    def _check_same(self, number: int, found: FoundSchema) -> None:
        digest = xxhash.xxh3_64_digest(msgspec.msgpack.encode((found.kind, found.text)))
        known = self.digests.setdefault(number, digest)
        if known != digest:
            raise LogError(
                f"registry {self.url} has another schema with id {number} than before: it is another "
                "registry. Records of the former one would be read as something else; name the right one, or "
                "begin with a new topic and a new state folder"
            )
        if len(self.digests) > DIGESTS_MAX:
            del self.digests[next(iter(self.digests))]

    def _no_schema(self, number: int) -> RecordError:
        return RecordError(f"registry {self.url} has no schema with id {number}")

    def _away(self, why: str) -> LogAwayError:
        return LogAwayError(f"registry {self.url} does not answer ({why})")

    def _password(self) -> str:
        if self._settings.password_file:
            return _read("password_file", self._settings.password_file)
        if PASSWORD not in os.environ:
            raise LogError(
                f"ingest.registry.user is {self._settings.user!r}, and there is no password: set "
                f"ingest.registry.password_file, or {PASSWORD} in the environment"
            )
        return os.environ[PASSWORD]

    def _token(self) -> str:
        return _read("token_file", self._settings.token_file)


def _read(key: str, file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise LogError(f"ingest.registry.{key} = {file}: it cannot be read: {error}") from None


def _is_unknown(body: bytes) -> bool:
    """Whether an answer says that there is no such subject, version or schema; not: no such page."""
    try:
        return 40_401 <= msgspec.json.decode(body, type=_Problem).error_code <= 40_499
    except UNDECODABLE:
        return False
