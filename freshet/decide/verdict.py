"""The verdict of a comparison, in one sentence."""

from collections.abc import Sequence

from freshet.decide.comparison import CompareVerdict, Cut, Stretch
from freshet.decide.paired import Differences, Interval
from learner.metrics import Summary

WORSE_NAMED_MAX = 3


def decide(
    first: str,
    other: str,
    requests: int,
    differences: Differences,
    summaries: Sequence[Summary],
    stretches: Sequence[Stretch],
    cuts: Sequence[Cut],
) -> CompareVerdict:
    """Decide whether `other` is better.

    Log loss decides, because it measures both the order and the size of the probabilities. If the log loss is
    better and the AUC surely worse, the verdict is mixed.
    """
    share, auc = differences.logloss_share, differences.auc
    over = f"over {requests:,} requests"
    least, most = sorted((abs(share.low), abs(share.high)))
    by = f"between {_percent(least)} and {_percent(most)}, 95 % sure"
    ranked = _ranked(summaries, auc)
    if differences.logloss.value == share.low == share.high == 0.0:
        return CompareVerdict("undecided", f"Keep {first}: {over}, both predicted exactly the same.")
    if not share.decided:
        return CompareVerdict(
            "undecided",
            f"Keep {first}: {over}, {other} was neither better nor worse than chance explains (its error "
            f"differs from {first}'s by something between {_signed(share.low)} and {_signed(share.high)})"
            f"{_order_alone(auc)}.",
        )
    if share.value > 0.0:
        return CompareVerdict(
            "worse",
            f"Keep {first}: {over}, {other}'s predictions were {_percent(share.value)} further off "
            f"({by}){ranked}.",
        )
    if auc is not None and auc.decided and auc.value < 0.0:
        return CompareVerdict(
            "mixed",
            f"Think twice: {over}, {other}'s probabilities were {_percent(-share.value)} closer to what "
            f"people did ({by}), but it puts candidates in a worse order{ranked}. Where only the order "
            f"counts, keep {first}.",
        )
    steady = sum(stretch.difference.share.value < 0.0 for stretch in stretches)
    return CompareVerdict(
        "better",
        f"Take {other}: {over}, its predictions were {_percent(-share.value)} closer to what people did "
        f"than {first}'s ({by}){ranked}, in {steady} of {len(stretches)} stretches of time{_worse(cuts)}.",
    )


def _order_alone(auc: Interval | None) -> str:
    """The addition if the AUC is decided and the log loss is not."""
    if auc is None or not auc.decided:
        return ""
    better = "better" if auc.value > 0.0 else "worse"
    return (
        f". Its order of candidates was surely {better} (AUC {auc.value:+.4f}, between {auc.low:+.4f} and "
        f"{auc.high:+.4f}): where only the order counts, that decides"
    )


def _ranked(summaries: Sequence[Summary], auc: Interval | None) -> str:
    a, b = (summary["auc"] for summary in summaries)
    if a is None or b is None:
        return ""
    if auc is not None and not auc.decided:
        return f", while the order of candidates did not surely change (AUC {a:.4f} and {b:.4f})"
    return f", and a clicked candidate got the higher score in {b:.2%} of cases instead of {a:.2%}"


def _worse(cuts: Sequence[Cut]) -> str:
    """The slices in which the better run is surely worse, the largest first."""
    found = sorted(
        (
            (-part.examples, f"{cut.title} {name} ({_signed(part.share.value)})")
            for cut in cuts
            for name, part in cut.slices
            if part.sure and part.share.value > 0.0
        )
    )
    if not found:
        return ""
    named = ", ".join(text for _, text in found[:WORSE_NAMED_MAX])
    more = f" and {len(found) - WORSE_NAMED_MAX} more" if len(found) > WORSE_NAMED_MAX else ""
    return f"; but look first at where it is worse: {named}{more}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"


def _signed(share: float) -> str:
    return f"{share:+.1%}" if abs(share) >= 0.01 else f"{share:+.2%}"
