"""The text of the config for topics of others, with the reason of each choice beside it."""

from collections.abc import Sequence

from freshet.init.config import GROUP_BY, HEAD, key_text, line_of, plain_text, value_text
from freshet.init.topics.propose import Proposal, Section
from freshet.init.topics.records import TopicRecords


def write_topics(proposal: Proposal, topics: Sequence[TopicRecords], whole: bool) -> str:
    """The config's text; not `whole`: the sections alone, to be added to a config."""
    read = ", ".join(f"{len(t.records):,} records of {t.topic}" for t in topics)
    lines = [f"# Written by `freshet init` after a look at {read}.", *(HEAD if whole else [""])]
    for target in proposal.targets:
        lines += [f"[targets.{target.name}]", *_settings(target), ""]
    for source in proposal.sources:
        lines += [f"[sources.{source.name}]", *_settings(source), ""]
    for one in proposal.features:
        if not one.feature.kind:
            lines.append(plain_text(f"# {one.name}: no feature: {one.feature.why}"))
    if lines[-1]:
        lines.append("")
    for one in proposal.features:
        if one.feature.kind:
            lines += [f"[features.{key_text(one.name)}]", *line_of("kind", one.feature.kind, one.feature.why)]
            lines += [f"of = {value_text(one.of)}"] if one.of else []
            lines += [f"length = {one.feature.length}"] if one.feature.length else []
            lines += line_of("type", one.type, one.why_type) if one.type is not None else []
            lines.append("")
    for name, more in proposal.more:
        lines += [f"[features.{key_text(name)}]", *more, ""]
    if proposal.group_by:
        lines += ["[learner]", *line_of("group_by", proposal.group_by, GROUP_BY), ""]
    return "\n".join(lines[:-1]) + "\n"


def _settings(section: Section) -> list[str]:
    return [line for setting in section.settings for line in line_of(*setting)]
