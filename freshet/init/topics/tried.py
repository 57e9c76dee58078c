"""Histories and rates for topics: tried on the requests and actions that were read, and kept if they gain."""

import tomllib
from collections.abc import Iterator, Sequence

from freshet.config import Config, parse_config
from freshet.decide.gains import SCORED_MIN
from freshet.init.features import ENTITY_WORDS, USER_WORDS
from freshet.init.topics.propose import Proposal
from freshet.init.topics.records import TopicRecords
from freshet.init.topics.shown import SourceFeature
from freshet.init.topics.write import write_topics
from freshet.init.trials.known import known_that_gains
from freshet.init.trials.offers import Keepers
from freshet.roles.ingest.role import source_of
from stream.errors import RecordError
from stream.ingest.lines import Lines
from stream.ingest.sampled import SampledImpressions
from stream.ingest.ways import ways_of
from stream.records.types import Action, Example, Impression
from stream.sources.mapping import CandidateLine, Mapper, Wanted
from stream.sources.settings import SourceSettings


def keep_what_gains(proposal: Proposal) -> Proposal:
    """The proposal with those histories and rates that gain something on what was read."""
    config = _config_of(proposal)
    examples = sorted(examples_of(config, proposal.read), key=lambda example: example.time)
    if sum(len(example.candidates) for example in examples) < 2 * SCORED_MIN:
        return proposal  # too few to say anything
    more = known_that_gains(
        _keepers(proposal),
        [one.name for one in proposal.features],
        examples,
        lambda more: _config_of(proposal._replace(more=[*proposal.more, *more])),
    )
    return proposal._replace(more=[*proposal.more, *more])


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


def _keepers(proposal: Proposal) -> Keepers:
    """The fields of people and items."""
    ids = [one for one in proposal.features if one.feature.kind == "id"]
    users = [one for one in ids if one.shared and one.field.column.words & USER_WORDS]
    items = sorted((one for one in ids if not one.shared), key=_likeliest_item)
    return Keepers(users[0].name if users else "", items[0].name if items else "", "")


def _likeliest_item(one: SourceFeature) -> tuple[bool, int]:
    named = bool(one.field.column.words & (ENTITY_WORDS - USER_WORDS))
    return not named, -len(one.field.column.counts)
