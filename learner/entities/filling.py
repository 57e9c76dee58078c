"""Requests with the attributes of their entities, as of their time.

What a request says itself goes before what is known of its entities. An item's attributes come to stand where
the item stands: in the candidate, or in the context.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from learner.entities.attributes import Owner
from learner.entities.store import EntityStore
from learner.entities.timelines import hour_of
from learner.features.encoder import Request
from stream.records.types import Example, Features, Impression

R = TypeVar("R", Impression, Example, Request)


def fill(store: EntityStore, requests: Sequence[R], *, see: bool = False) -> Sequence[R]:
    """Requests with the attributes that they lack; the same objects where nothing is to be added.

    Args:
        see: note that the entities were seen, so that a full store keeps them.
    """
    if not store.owners:
        return requests
    return [_filled(store, request, see) for request in requests]


def filled(store: EntityStore, request: R, *, see: bool = False) -> R:
    """`fill` of one request."""
    return _filled(store, request, see) if store.owners else request


def _filled(store: EntityStore, request: R, see: bool) -> R:
    time, context, candidates = request.time, request.context, request.candidates
    seen = hour_of(time) if see else b""
    used = _used(request)
    for owner in store.owners.values():
        sent = owner.attributes.keys() & (request.context.keys() | used)
        if len(sent) == len(owner.attributes) and not see:
            continue
        new = [_with(store, owner, candidate, sent, time, seen) for candidate in candidates]
        if owner.name in context and not all(owner.name in candidate for candidate in candidates):
            context = _with(store, owner, context, sent, time, seen)
        candidates = new
    if context is request.context and all(map(_is, candidates, request.candidates)):
        return request
    if isinstance(request, Request):
        return request._replace(context=context, candidates=candidates)
    return msgspec.structs.replace(request, context=context, candidates=candidates)


def _used(request: R) -> set[str]:
    """The attributes with which a server has scored a request: it is learned with these values, whatever has
    become known since."""
    served = None if isinstance(request, Request) else request.served
    return set() if served is None else set(served.filled)


def _with(
    store: EntityStore, owner: Owner, features: Features, sent: set[str], time: float, seen: bytes
) -> Features:
    """Features with the attributes of the entity among them, but not those that were sent elsewhere."""
    entity = features.get(owner.name)
    if entity is None:
        return features
    values = store.values(owner, entity, time, seen)
    if sent:
        values = {name: value for name, value in values.items() if name not in sent}
    return features if values.keys() <= features.keys() else {**values, **features}


def _is(left: object, right: object) -> bool:
    return left is right
