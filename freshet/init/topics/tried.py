"""Histories and rates for topics: tried on the requests and actions that were read, and kept if they gain."""

import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence

from freshet.config import Config, parse_config
from freshet.decide.gains import SCORED_MIN, Gains
from freshet.init.config import Offer, history_offer, rate_offer, window_of
from freshet.init.features import ENTITY_WORDS, USER_WORDS
from freshet.init.topics.propose import Proposal
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.shown import SourceFeature
from freshet.init.topics.write import write_topics
from freshet.roles.ingest.role import source_of
from stream.errors import RecordError
from stream.ingest.lines import Lines
from stream.ingest.sampled import SampledImpressions
from stream.ingest.ways import ways_of
from stream.records.types import Action, Example, Impression
from stream.sources.mapping import CandidateLine, Mapper, Wanted
from stream.sources.settings import SourceSettings

HISTORY_LENGTH = 50


def keep_what_gains(proposal: Proposal) -> Proposal:
    """The proposal with those histories and rates that gain something on what was read."""
    config = _config_of(proposal)
    examples = sorted(examples_of(config, proposal.read), key=lambda example: example.time)
    if sum(len(example.candidates) for example in examples) < 2 * SCORED_MIN:
        return proposal  # too few to say anything
    gains = Gains(lambda _: examples)
    for offer in _offers(proposal, examples):
        tried = proposal._replace(more=[*proposal.more, (offer.name, offer.lines)])
        gain = gains.of(_config_of(proposal), _config_of(tried))
        if gain is not None and gain.sure:
            lines = [line.replace("{why}", f"{offer.why}: {gain}") for line in offer.lines]
            proposal = proposal._replace(more=[*proposal.more, (offer.name, lines)])
    return proposal


def examples_of(config: Config, topics: Sequence[TopicRecords]) -> Iterator[Example]:
    """The requests that were read, with the labels of the first target that their actions give.

    Args:
        topics: what was read, in the order of the config's sources.
    """
    impressions: list[Impression] = []
    actions: list[tuple[SourceSettings, Action | Wanted]] = []
    for name, topic in zip(config.sources, topics, strict=True):
        source = source_of(config, name)
        mapper, lines = Mapper(name, source, config.features), Lines()
        for at, message in enumerate(topic.messages):
            try:
                event = mapper.map(message, f"{name}-{at}")
            except RecordError:
                continue
            if isinstance(event, Impression):
                impressions.append(event)
            elif isinstance(event, CandidateLine) and (complete := lines.take(event, at)) is not None:
                impressions.append(complete[0])
            elif isinstance(event, Action | Wanted):
                actions.append((source, event))
        if (complete := lines.close()) is not None:
            impressions.append(complete[0])
    shown = SampledImpressions(impressions, ways_of(config.sources))
    targets = config.known_targets()
    done: dict[str, set[int]] = {}
    for source, action in actions:
        if action.label and targets.of_action(action.name) == targets.primary:
            found = shown.find(source, action)
            if found is not None:
                done.setdefault(found[0].request_id, set()).add(found[1])
    for impression in impressions:
        clicked = done.get(impression.request_id, set())
        labels = impression.labels or [float(i in clicked) for i in range(len(impression.candidates))]
        yield Example(
            request_id=impression.request_id,
            time=impression.time,
            decided=impression.time,
            candidates=impression.candidates,
            labels=labels,
            context=impression.context,
        )


def _config_of(proposal: Proposal) -> Config:
    return parse_config(tomllib.loads(write_topics(proposal, proposal.read, whole=True)), "init")


def _offers(proposal: Proposal, examples: Sequence[Example]) -> list[Offer]:
    """Histories of the item by the user, and the rate of the item."""
    ids = [one for one in proposal.features if one.feature.kind == "id"]
    users = [one for one in ids if one.shared and one.field.column.words & USER_WORDS]
    items = sorted((one for one in ids if not one.shared), key=_likeliest_item)
    if not items:
        return []
    item = items[0].name
    found = []
    if users:
        found.append(history_offer(users[0].name, item, HISTORY_LENGTH, "what the person took before"))
    shown = Counter(str(c[item]) for example in examples for c in example.candidates if item in c)
    window_s = window_of([example.time for example in examples], shown)
    if window_s:
        found.append(rate_offer(item, window_s))
    names = {one.name for one in proposal.features}
    return [offer for offer in found if offer.name not in names]


def _likeliest_item(one: SourceFeature) -> tuple[bool, int]:
    named = bool(one.field.column.words & (ENTITY_WORDS - USER_WORDS))
    return not named, -len(one.field.column.counts)
