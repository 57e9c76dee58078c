"""What of a plan is kept: the features on trial that gain something on the sample."""

import tomllib
from itertools import islice
from pathlib import Path

from freshet.config import Config, parse_config
from freshet.decide.gains import Gain, Gains, first_lines
from freshet.init.config import Plan, write_config
from freshet.init.trials.known import KNOWN_LINES, known_that_gains
from freshet.init.trials.offers import keepers_of, offers_of
from learner.features.columns import declared_by
from stream.files.sources import read_lines

TOO_FEW = "too few lines to say what it gains"


def keep_what_gains(plan: Plan, path: Path) -> Plan:
    """A plan without the texts, vectors, calendars, places on Earth, histories and rates that gain nothing on
    the sample.

    Raises:
        FreshetError: the file does not fit the plan.
    """
    if plan.label.value is not None:
        return without_trials(plan)  # gains are those of events
    trials = [feature for feature in plan.features if feature.trial and feature.kind]
    features = [f._replace(kind="") if f.trial else f for f in plan.features]
    if not any(feature.kind for feature in features):
        return plan  # nothing to compare with
    plan = plan._replace(features=features)
    gains = Gains(first_lines(path))
    for trial in trials:
        tried = [trial if f.column is trial.column else f for f in plan.features]
        gain = _gain(gains, plan, plan._replace(features=tried), path)
        why = f"{trial.why}: {gain or TOO_FEW}"
        kept = trial._replace(why=why) if gain is not None and gain.sure else trial._replace(kind="", why=why)
        plan = plan._replace(features=[kept if f.column is trial.column else f for f in plan.features])
    for offer in offers_of(plan):
        gain = _gain(gains, plan, plan._replace(more=[*plan.more, (offer.name, offer.lines)]), path)
        if gain is not None and gain.sure:
            lines = [line.replace("{why}", f"{offer.why}: {gain}") for line in offer.lines]
            plan = plan._replace(more=[*plan.more, (offer.name, lines)])
    return _with_known(plan, path)


def _with_known(plan: Plan, path: Path) -> Plan:
    """A plan with the histories and the rate that gain something."""
    keepers = keepers_of(plan)
    if not keepers.item:
        return plan
    config = _config_of(plan, path)
    examples = list(islice(read_lines(path, config.data, declared_by(config.features)), KNOWN_LINES))
    names = [feature.column.name for feature in plan.features]
    more = known_that_gains(
        keepers, names, examples, lambda more: _config_of(plan._replace(more=[*plan.more, *more]), path)
    )
    return plan._replace(more=[*plan.more, *more])


def without_trials(plan: Plan) -> Plan:
    """A plan without what is kept only if it gains something."""
    why = "what it gains is not tried with a value"
    features = [
        f._replace(kind="", why=f"{f.why}: {why}") if f.trial and f.kind else f for f in plan.features
    ]
    return plan._replace(features=features)


def _gain(gains: Gains, without: Plan, with_: Plan, path: Path) -> Gain | None:
    return gains.of(_config_of(without, path), _config_of(with_, path))


def _config_of(plan: Plan, path: Path) -> Config:
    return parse_config(tomllib.loads(write_config(plan, path)), "init")
