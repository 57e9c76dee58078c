"""What a source is: a topic of others, and how its records become events."""

import re
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from ground.short_repr import ShortRepr
from stream.limits import CANDIDATES_MAX, FEATURES_MAX, TARGET_WINDOW_S_MAX, check_dead_letters
from stream.log.base import MATCHES
from stream.sources.paths import compile_path, split_path

Unit = Literal["s", "ms", "us", "ns", "iso"]

WAIT_S_MAX = 86_400.0
LINES_WAIT_S_MAX = 60.0


class TimeField(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the event time is; `iso` is text as in ISO 8601."""

    field: str
    unit: Unit
    zone: str = ""  # of times that name none: "UTC", "Europe/Berlin"; empty: they are refused

    def __post_init__(self) -> None:
        if self.field.removesuffix("?") == "@@timestamp" and self.unit != "ms":
            raise ValueError(f'@@timestamp is in ms; unit is "{self.unit}"')
        try:
            if self.zone:
                ZoneInfo(self.zone)
        except (ValueError, OSError, KeyError):
            raise ValueError(
                f"zone is {self.zone!r}; expected the name of a time zone, such as UTC or Europe/Berlin"
            ) from None


class Constant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that is the same for all records, in place of a path."""

    constant: str


class SourceSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [sources.NAME]: a topic of others. Fields are paths (`stream.sources.paths`)."""

    topic: str
    kind: Literal["impression", "action", "labelled", "entity"]
    time: TimeField
    log: str = ""  # URL of the log that has the topic; empty: the config's, without its prefix
    begin: Literal["oldest", "newest"] = "oldest"  # with a partition that was never read
    format: Literal["json", "msgpack", "avro", "protobuf"] = "json"
    registry: str = ""  # URL of a schema registry with Confluent's API
    schema: str = ""  # file: .avsc; or .desc, made by `protoc --descriptor_set_out --include_imports`
    message: str = ""  # of the .desc
    envelope: Literal["none", "debezium", "cloudevents"] = "none"
    only: dict[str, list[str | int | bool]] = {}  # path -> values; other records are skipped, and counted
    deletions: Literal["ignore", "dead_letter"] = "ignore"  # records without a value, rows deleted
    request_id: str = ""
    candidates: str = ""  # path of a list; empty: a record is one candidate
    lines_wait_s: float = (
        1.0  # if records are candidates: for the next one of a request; 0: each is a request
    )
    context: dict[str, str] = {}  # feature -> path
    features: dict[str, str] = {}  # feature -> path within the candidate
    feature: str = ""  # of an entity: the feature whose id it is; its attributes are in `features`
    id: str = ""  # of an entity: the path of its id
    label: str = ""  # labelled: path within the candidate; action: path; empty: 1
    name: str | Constant = Constant(constant="click")  # of an action
    value: str = ""  # of an action, for a target that is a value: a path
    candidate: str | int = ""  # of an action: the path of the candidate's index, or the index
    each: str = ""  # of an action or entity: path of a list; each element, in its place, is an event
    match: dict[str, str] = {}  # or feature of the candidate -> path in the action
    by: dict[str, str] = {}  # without a request id: feature of the context -> path in the action
    anonymous: Literal["dead_letter", "ignore"] = "dead_letter"  # actions of which a value of `by` is null
    within_s: float = 0.0  # an action belongs to an impression at most this old; 0: the longest target's
    wait_s: float = 60.0  # how long an action waits for its impression, in event time
    settle_s: float = 0.0  # how long an action with `by` waits for a newer impression than the one known

    def __post_init__(self) -> None:
        if not self.topic:
            raise ValueError("topic is empty; expected the name of a topic")
        self._check_format()
        if self.kind != "entity" and (self.feature or self.id):
            raise ValueError(f'feature and id are for kind = "entity"; this source has kind = "{self.kind}"')
        if self.kind == "entity":
            self._check_entity()
        elif self.kind == "action":
            self._check_action()
        else:
            self._check_impression()
        if not 0.0 <= self.lines_wait_s <= LINES_WAIT_S_MAX:
            raise ValueError(f"lines_wait_s is {self.lines_wait_s}; expected 0 to {LINES_WAIT_S_MAX:g}")
        # a purchase may come as late as its target waits for it
        limits = {"within_s": TARGET_WINDOW_S_MAX, "wait_s": WAIT_S_MAX, "settle_s": WAIT_S_MAX}
        for name, most in limits.items():
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to {most:g}")
        if self.settle_s > self.wait_s:
            raise ValueError(f"settle_s is {self.settle_s}; expected at most wait_s, {self.wait_s}")
        for key in ("context", "features"):
            if len(getattr(self, key)) > FEATURES_MAX:
                raise ValueError(f"{key} has {len(getattr(self, key))} features, more than {FEATURES_MAX}")
        if isinstance(self.candidate, int) and not 0 <= self.candidate < CANDIDATES_MAX:
            raise ValueError(f"candidate is {self.candidate}; expected 0 to {CANDIDATES_MAX - 1}")
        for key, path in self.paths():
            try:
                compile_path(path)
            except ValueError as error:
                raise ValueError(f"{key} = {path!r}: {error}") from None
            needs = self.format in ("avro", "protobuf") and not self.registry
            if path.startswith("@@key.") and needs:
                raise ValueError(
                    f"{key} = {path!r}: fields of keys in {self.format} need registry, a URL; @@key alone "
                    "may be text"
                )
        if self.each:
            self._check_each()

    def paths(self) -> list[tuple[str, str]]:
        """(key, path) of all paths."""
        named = [("time.field", self.time.field)]
        named += [
            (key, getattr(self, key))
            for key in ("request_id", "candidates", "each", "id", "label", "name", "value", "candidate")
        ]
        for key in ("only", "context", "features", "match", "by"):
            table = getattr(self, key)
            named += [(f"{key}.{name}", name if key == "only" else path) for name, path in table.items()]
        return [(key, path) for key, path in named if isinstance(path, str) and (path or "." in key)]

    @property
    def way(self) -> tuple[str, ...]:
        """The context's features by which its actions find an impression without a request id."""
        return tuple(sorted(self.by))

    @property
    def together(self) -> bool:
        """Whether consecutive records make one request."""
        return (
            self.kind not in ("action", "entity")
            and not self.candidates
            and bool(self.request_id)
            and self.lines_wait_s > 0.0
        )

    def _check_each(self) -> None:
        if self.kind not in ("action", "entity"):
            raise ValueError(f'each is for actions and entities; with kind = "{self.kind}" say candidates')
        steps, start, _ = split_path(self.each)
        if start:
            raise ValueError(f"each = {self.each!r}: expected a path within the record, without {start}")
        own = [*self.match.values(), self.candidate if isinstance(self.candidate, str) else "", self.id]
        within = [split_path(path) for path in own if path]
        if not any(begin == "" and found[: len(steps)] == steps for found, begin, _ in within):
            raise ValueError(
                f"each = {self.each!r}: all its events would be the same; expected a path in it, such as "
                f"{self.each.removesuffix('?')}.sku, in {'id' if self.kind == 'entity' else 'match'}"
            )

    def _check_format(self) -> None:
        if self.format == "avro" and not (self.registry or self.schema):
            raise ValueError('format = "avro" needs registry, a URL, or schema, an .avsc file')
        if self.format == "protobuf" and not (self.registry or self.schema):
            raise ValueError(
                'format = "protobuf" needs registry, a URL, or schema, a .desc file, and message'
            )
        if self.format == "protobuf" and self.schema and not self.message:
            raise ValueError("schema is a .desc file: message must name the type of the records in it")
        if self.schema and self.format not in ("avro", "protobuf"):
            raise ValueError(f'schema is of no use with format = "{self.format}"; leave it out')
        if self.message and not (self.format == "protobuf" and self.schema):
            raise ValueError('message names a type in a .desc file: give format = "protobuf" and schema too')
        if self.registry and not self.registry.startswith(("http://", "https://")):
            raise ValueError(f"registry is {self.registry!r}; expected a URL, http://HOST:PORT")

    def _check_impression(self) -> None:
        if not self.features and not self.context:
            raise ValueError("an impression needs features or context: feature = path")
        if self.kind == "impression" and not self.request_id:
            raise ValueError("an impression needs request_id, the path by which its actions find it")
        if self.kind == "labelled" and not self.label:
            raise ValueError('kind = "labelled" needs label, the path of 0, 1, true or false in a candidate')
        if self.kind == "impression" and self.label:
            raise ValueError('label is of no use with kind = "impression"; did you mean kind = "labelled"?')
        given = [key for key in ("match", "by", "value") if getattr(self, key)]
        if self.candidate != "":
            given.append("candidate")
        if given:
            raise ValueError(f'{given[0]} is for actions; this source has kind = "{self.kind}"')

    def _check_entity(self) -> None:
        if not self.feature or not self.id or not self.features:
            raise ValueError(
                "an entity needs feature, the name of a feature; id, the path of its id; and features, "
                "attribute = path"
            )
        given = [
            key
            for key in ("request_id", "candidates", "context", "label", "match", "by", "value", "candidate")
            if getattr(self, key) not in ("", {})
        ]
        if given:
            raise ValueError(f"{given[0]} is for requests; an entity has feature, id and features")

    def _check_action(self) -> None:
        given = [key for key in ("candidates", "context", "features") if getattr(self, key)]
        if given:
            raise ValueError(
                f"{given[0]} is for impressions; an action has request_id, and candidate or match"
            )
        if (self.candidate == "") == (not self.match):
            raise ValueError(
                "an action names its candidate: either candidate, the path of its index, or match, "
                "a feature of the candidate and the path of its value"
            )
        if self.by and not self.match:
            raise ValueError("by needs match: which of the impression's candidates")
        if not self.request_id and not self.by:
            raise ValueError("an action needs request_id, or by: whose impression it belongs to")


class RegistrySettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How schema registries are reached. Secrets are in files or in the environment, never here."""

    user: str = ""
    password_file: str = ""  # empty: FRESHET_REGISTRY_PASSWORD
    token_file: str = ""  # a bearer token; read again for each request
    ca_file: str = ""  # PEM, of who signed the registry's certificate; empty: whom the system trusts
    away_after_s: float = 3.0  # of trying, after which the registry counts as away
    cached_max: int = 1_000  # schemas kept; the one used longest ago goes

    def __post_init__(self) -> None:
        if not 0.1 <= self.away_after_s <= 600.0:
            raise ValueError(f"away_after_s is {self.away_after_s}; expected 0.1 to 600")
        if not 1 <= self.cached_max <= 1_000_000:
            raise ValueError(f"cached_max is {self.cached_max}; expected 1 to 1000000")
        if self.user and self.token_file:
            raise ValueError("user and token_file exclude each other")


class IngestSettings(ShortRepr, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section [ingest]: how sources are read."""

    commit_every_s: float = 0.01  # while records keep coming; else they are committed and sent on at once
    max_ahead_s: float = 300.0  # event time ahead of the source's log beyond which a record is refused
    ahead_of_others_s: float = 10.0  # a source that is further ahead of another one waits for it
    dead_letter_share_max: float = 0.5
    dead_letter_window: int = 1000  # records per partition over which that share is taken
    recent_max: int = 50  # impressions of one entity that `by` remembers; the oldest go
    waiting_max: int = 100_000  # actions of one partition that wait for their impressions; the oldest go
    registry: RegistrySettings = RegistrySettings()

    def __post_init__(self) -> None:
        if not 0.001 <= self.commit_every_s <= 60.0:
            raise ValueError(f"commit_every_s is {self.commit_every_s}; expected 0.001 to 60")
        if not (self.max_ahead_s >= 0.0 and self.ahead_of_others_s >= 0.0):
            raise ValueError("max_ahead_s and ahead_of_others_s must be 0 or more")
        check_dead_letters(self.dead_letter_share_max, self.dead_letter_window)
        if not 1 <= self.recent_max <= 10_000 or not 1 <= self.waiting_max <= 1_000_000:
            raise ValueError("recent_max must be 1 to 10000, and waiting_max 1 to 1000000")


def check_sources(sources: dict[str, SourceSettings]) -> None:
    """Check what one source alone cannot know.

    Raises:
        ValueError: naming the source and what was expected.
    """
    topics: dict[tuple[str, str], str] = {}
    for name, source in sources.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) or name == MATCHES:
            raise ValueError(
                f"sources.{name}: a name has 1 to 60 letters, digits, - and _, and is not {MATCHES}"
            )
        other = topics.setdefault((source.log, source.topic), name)
        if other != name and not (source.only and sources[other].only):
            raise ValueError(
                f"sources.{other} and sources.{name} both read topic {source.topic!r}: each record would be "
                "taken twice; say in both, with only, which records they take"
            )
    shown = {name: source for name, source in sources.items() if source.kind == "impression"}
    for name, source in sources.items():
        for key, fields in (("match", "features"), ("by", "context")):
            for feature in getattr(source, key):
                lacking = [n for n, s in shown.items() if feature not in getattr(s, fields)]
                if not shown or len(lacking) == len(shown):
                    what = f"has {feature!r} in {fields}" if shown else "is there"
                    raise ValueError(
                        f"sources.{name}.{key} looks for {feature!r} in the {fields} of impressions, and no "
                        f"source of kind impression {what}"
                    )
