"""The ways in which actions find impressions, of all sources together."""

import msgspec

from stream.sources.settings import SourceSettings


class Way(msgspec.Struct, frozen=True):
    """How actions find impressions: by which features of the context, and what names a candidate."""

    by: tuple[str, ...]  # empty: by the request's id
    names: tuple[str, ...]


def ways_of(sources: dict[str, SourceSettings]) -> list[Way]:
    """The ways by which the actions of some sources find their impressions; the order is always the same."""
    found: dict[tuple[str, ...], set[str]] = {}
    for source in sources.values():
        if source.match:
            for by in {source.way, ()} if source.request_id else {source.way}:
                found.setdefault(by, set()).update(source.match)
    return [Way(by, tuple(sorted(names))) for by, names in sorted(found.items())]
