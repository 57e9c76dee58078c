"""The ledger with three targets: what people buy and watch of what they clicked, early, late, taken back.

Each action comes in one of the stretches between the moments at which a target is decided or over, and no
two of one candidate come in the same stretch behind the first. So it follows from the actions alone what is
learned and what is corrected, however late and in whichever order they arrive.
"""

from typing import NamedTuple

from ledger import EVERY_S, WINDOW_S, Ledger

from stream.records.targets import Target, Targets
from stream.records.types import Action, Impression, encode

TARGETS = Targets(
    {
        "click": Target(window_s=WINDOW_S),
        "buy": Target(of="click", actions=("buy", "order"), observe_s=2 * WINDOW_S, window_s=4 * WINDOW_S),
        "minutes": Target(kind="value", of="click", scale="log1p", window_s=2.5 * WINDOW_S),
    }
)
SECTIONS = f"""
[targets.click]
window_s = {WINDOW_S}
[targets.buy]
of = "click"
actions = ["buy", "order"]
observe_s = {2 * WINDOW_S}
window_s = {4 * WINDOW_S}
[targets.minutes]
kind = "value"
of = "click"
scale = "log1p"
window_s = {2.5 * WINDOW_S}
"""
DECIDED = {"click": 1.0, "buy": 2.0, "minutes": 2.5}
"""In windows from the impression on."""
OVER = {"click": 3.0, "minutes": 4.5, "buy": 6.0}
"""The same: with `late = "learn"` a target is open for two windows more."""
STRETCHES = ((0.0, 0.65), (1.05, 1.65), (2.05, 2.15), (2.55, 2.65), (3.05, 4.15), (4.55, 5.65), (6.05, 6.6))
"""When actions come, so that those which are delayed arrive in their stretch too."""


class Done(NamedTuple):
    """One action."""

    at: float  # windows from the impression on
    target: str
    candidate: int
    label: float  # 0: taken back


class TargetsLedger(Ledger):
    """A ledger of three targets."""

    targets = TARGETS
    every_s = 6 * EVERY_S  # requests wait for longer

    def _happen(self, impression: Impression, shown: list[int] | None, examined: int | None) -> None:
        size = len(impression.candidates)
        done = sorted(one for candidate in range(size) for one in self._draw(candidate))
        order = list(range(size)) if shown is None else shown
        for one in self._learn(impression, done, order, len(order) if examined is None else examined):
            name = self._rng.choice(TARGETS[one.target].actions)
            value = one.label if one.target == "minutes" and one.label else None
            time = impression.time + one.at * WINDOW_S
            action = Action(
                impression.request_id, time, one.candidate, float(one.label > 0.0), name, value=value
            )
            self._come(time, impression.request_id.encode(), encode(action))
            self.sent["actions"] += 1

    def _draw(self, candidate: int) -> list[Done]:
        """What is done with a candidate."""
        rng = self._rng
        done: list[Done] = []
        free = list(range(1, len(STRETCHES) - 1))

        def do(target: str, label: float, at: float | None, first: int = 1) -> int:
            """Do it at a moment of the first stretch, or in a later one that is free; returns which."""
            stretches = [stretch for stretch in free if stretch >= first]
            stretch = 0 if at is not None else rng.choice(stretches) if stretches else len(STRETCHES) - 1
            if at is None and stretch in free:
                free.remove(stretch)
            when = rng.uniform(*STRETCHES[stretch]) if at is None else at
            done.append(Done(when, target, candidate, label))
            return stretch

        fate = rng.random()
        clicked = -1
        if fate < 0.3:
            clicked = do("click", 1.0, rng.uniform(0.0, 0.2))
            if fate < 0.03:
                do("click", 0.0, rng.uniform(0.25, 0.4))
            elif fate < 0.06:
                again = do("click", 0.0, None)
                if fate < 0.04:
                    do("click", 1.0, None, again)
        elif fate < 0.34:
            clicked = do("click", 1.0, None)
        elif fate > 0.97:
            clicked = 0  # it is bought or watched, and the click that this takes was lost
        if clicked < 0:
            return done
        if rng.random() < 0.4:
            bought = do("buy", 1.0, rng.uniform(0.4, 0.6) if rng.random() < 0.3 else None)
            if rng.random() < 0.3:
                do("buy", 0.0, None, bought + 1)
        if rng.random() < 0.4:
            watched = do("minutes", rng.choice([0.5, 2.25, 7.0]), 0.5 if rng.random() < 0.5 else None)
            if rng.random() < 0.4:
                do("minutes", rng.choice([0.0, 1.5, 30.0]), None, watched + 1)
        return done

    def _learn(self, impression: Impression, done: list[Done], order: list[int], examined: int) -> list[Done]:
        """Expect what follows: decisions and corrections, in event time.

        Returns:
            The actions to send: all but those which come when the request may be forgotten.
        """
        sent: list[Done] = []
        said: dict[tuple[str, int], float] = {}
        learnt: dict[str, dict[int, float]] = {}
        seen: set[int] = set()

        def happened(target: str, candidate: int) -> bool:
            if (target, candidate) in said or target != "click":
                return said.get((target, candidate), 0.0) > 0.0
            return any(happened(other, candidate) for other in ("buy", "minutes"))

        def label(target: str, candidate: int) -> float | None:
            """None: it is not in the target's sample."""
            if target != "click":
                is_in = happened("click", candidate)
                return said.get((target, candidate), 0.0) if is_in else None
            clicked = happened("click", candidate)
            return float(clicked) if clicked or candidate in seen else None

        moments = [(at, None, target) for target, at in DECIDED.items()]
        for at, one, target in sorted(
            [*moments, *((one.at, one, one.target) for one in done)], key=lambda moment: moment[0]
        ):
            name = "" if target == "click" else target
            if one is None:
                if target == "click":
                    clicks = {c for c in range(len(impression.candidates)) if happened("click", c)}
                    last = max([examined, *(place + 1 for place, c in enumerate(order) if c in clicks)])
                    seen |= {*order[:last], *clicks}
                found = {c: label(target, c) for c in range(len(impression.candidates))}
                learnt[target] = {c: y for c, y in found.items() if y is not None}
                if learnt[target]:
                    self._expect(impression, learnt[target], target=name)
                continue
            candidate = one.candidate
            needs_click = target != "click" and not happened("click", candidate)
            counts = at < OVER[target] and (not needs_click or at < OVER["click"])
            if counts or at < OVER["minutes"] or happened("click", candidate):
                sent.append(one)
            if not counts:
                continue
            said[target, candidate] = one.label
            for other, labels in learnt.items():
                now = label(other, candidate)
                was = labels.get(candidate)
                if now is None or now == was or at >= OVER[other]:
                    continue
                before = None if was is None else [was]
                other_name = "" if other == "click" else other
                self._expect(impression, {candidate: now}, True, before, other_name)
                labels[candidate] = now
                self.sent["late"] += 1
                if other == "click":
                    seen.add(candidate)
        return sent
