"""`freshet forget`: ask every role, through the log, to delete ids and everything trained on them."""

import json
import os
import time
from collections.abc import Sequence

from freshet.config import Config
from freshet.errors import ConfigError
from freshet.roles.opening import open_used
from learner.model.forgetting import widened
from stream.log.base import EVENTS
from stream.records.decoding import check
from stream.records.forgetting import append_forget
from stream.records.types import Forget


def forget(config: Config, named: Sequence[str]) -> Forget:
    """Append one forget request to the log.

    Args:
        named: ids, each as FEATURE=ID.

    Raises:
        ConfigError: an id is not written as FEATURE=ID.
        FeatureError: a feature is not declared, or holds no ids; or no ids are named, or too many.
        RecordError: an id is too long, or out of range.
        LogError: the log cannot be written.
    """
    entity: dict[str, list[int | str]] = {}
    for text in named:
        feature, ids = parse_id(text)
        entity.setdefault(feature, []).append(ids)
    request = Forget(
        forget_id=os.urandom(8).hex(),
        time=time.time(),
        entity=widened(config.features, entity),
        refuse_s=config.server.forget_refuse_s,
    )
    check(request)
    log = open_used(config)
    try:
        places = append_forget(log, EVENTS, request)
    finally:
        log.close()
    where = ", ".join(f"{partition} at {offset}" for partition, offset in places)
    ids_ = sum(len(found) for found in request.entity.values())
    what = f"{ids_} {'id' if ids_ == 1 else 'ids'} of {', '.join(request.entity)}"
    print(f"forget {request.forget_id}: {what}; in partition {where}")
    return request


def parse_id(text: str) -> tuple[str, int | str]:
    """Parse FEATURE=ID: a JSON integer is an integer, all else a string; quotes make a number a string.

    >>> parse_id("user=ann"), parse_id("item=17"), parse_id('item="17"')
    (('user', 'ann'), ('item', 17), ('item', '17'))

    Raises:
        ConfigError: FEATURE= is missing.
    """
    feature, equals, value = text.partition("=")
    if not equals or not feature or not value:
        raise ConfigError(f"{text!r} is not FEATURE=ID; write for example user=ann, or item=17")
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return feature, found if type(found) in (int, str) else value
