"""Which of some impressions, all in memory, actions belong to: for looks at samples of topics."""

from collections.abc import Sequence

from stream.ingest.records import Showing, key_of
from stream.ingest.shown import CLOCKS_S, candidate_of
from stream.ingest.ways import Way
from stream.records.types import Action, Impression
from stream.sources.mapping import Wanted
from stream.sources.settings import SourceSettings


class SampledImpressions:
    """Impressions, to be found as the matcher finds them.

    Args:
        impressions: in any order.
        ways: how actions find impressions, as `ways_of` gives them.
    """

    def __init__(self, impressions: Sequence[Impression], ways: Sequence[Way]) -> None:
        self._by_request = {impression.request_id: impression for impression in impressions}
        self._shown: dict[bytes, list[tuple[Showing, Impression]]] = {}
        for impression in impressions:
            for way in {*ways, Way((), ())}:
                entity = [impression.context.get(n) for n in way.by] if way.by else [impression.request_id]
                known = [value for value in entity if value is not None]
                rows = [[features.get(name) for name in way.names] for features in impression.candidates]
                if len(known) == len(entity):
                    showing = Showing(impression.request_id, impression.time, list(way.names), rows)
                    self._shown.setdefault(key_of(way.by, known), []).append((showing, impression))

    def find(self, source: SourceSettings, action: Action | Wanted) -> tuple[Impression, int] | None:
        """The newest impression that an action of a source belongs to, and the index of its candidate."""
        if isinstance(action, Action):
            impression = self._by_request.get(action.request_id)
            if impression is None or action.candidate >= len(impression.candidates):
                return None
            return impression, action.candidate
        if action.request_id:
            key = key_of((), [action.request_id])
        else:
            key = key_of(source.way, action.entity)
        best: tuple[Impression, int] | None = None
        for showing, impression in self._shown.get(key, ()):
            within = action.time - source.within_s <= showing.time <= action.time + CLOCKS_S
            if action.request_id or within:
                candidate = candidate_of(showing, action.match)
                if candidate is not None and (best is None or best[0].time <= showing.time):
                    best = impression, candidate
        return best
