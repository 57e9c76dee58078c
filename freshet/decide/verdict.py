"""The verdict of a comparison, in one sentence."""

from collections.abc import Sequence

from freshet.decide.comparison import FURTHER_METRICS, CompareVerdict, Cut, FurtherTarget, Stretch
from freshet.decide.paired import Differences, Interval
from learner.metrics import Summary

WORSE_NAMED_MAX = 3
NOTABLE = 0.01
"""Share by which the error of a further target must grow to make a better run a mixed one."""


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
    better and the AUC significantly worse, the verdict is mixed.
    """
    share, auc = differences.logloss_share, differences.auc
    over = f"over {requests:,} requests"
    least, most = sorted((abs(share.low), abs(share.high)))
    by = f"95 %: {_percent(least)} to {_percent(most)}"
    ranked = _ranked(summaries, auc)
    if differences.logloss.value == share.low == share.high == 0.0:
        return CompareVerdict("undecided", f"Keep {first}: {over}, the predictions are identical.")
    if not share.decided:
        return CompareVerdict(
            "undecided",
            f"Keep {first}: {over}, the difference in log loss is within chance "
            f"(95 %: {_signed(share.low)} to {_signed(share.high)}){_order_alone(auc)}.",
        )
    if share.value > 0.0:
        return CompareVerdict(
            "worse",
            f"Keep {first}: {over}, the log loss of {other} is {_percent(share.value)} higher "
            f"({by}){ranked}.",
        )
    if auc is not None and auc.decided and auc.value < 0.0:
        return CompareVerdict(
            "mixed",
            f"Mixed: {over}, the log loss of {other} is {_percent(-share.value)} lower ({by}), but its "
            f"AUC is lower too{ranked}. If only the order counts, keep {first}.",
        )
    steady = sum(stretch.difference.share.value < 0.0 for stretch in stretches)
    return CompareVerdict(
        "better",
        f"Take {other}: {over}, its log loss is {_percent(-share.value)} lower ({by}){ranked}, and it is "
        f"lower in {steady} of {len(stretches)} periods{_worse(cuts)}.",
    )


def over_all(verdict: CompareVerdict, primary: str, further: Sequence[FurtherTarget]) -> CompareVerdict:
    """The verdict on the first target, with what the reports say of the others.

    Without intervals they decide nothing by themselves. But a run that is better in the first target and
    notably worse in another one is mixed.
    """
    changes = {}
    for target in further:
        key = next((key for key in ("logloss", "mae") if key in target.metrics), "")
        if key and target.metrics[key][0] > 0.0:
            first, other = target.metrics[key]
            changes[target.name] = FURTHER_METRICS[key], (other - first) / first
    if not changes:
        return verdict
    told = ", ".join(
        f"{metric} of {name} {_percent(abs(change))} {'higher' if change > 0.0 else 'lower'}"
        for name, (metric, change) in changes.items()
    )
    sentence = f"{verdict.sentence} That is of {primary}. From the reports, without intervals: {told}."
    worse = [name for name, (_, change) in changes.items() if change >= NOTABLE]
    if verdict.kind == "better" and worse:
        return CompareVerdict("mixed", f"Mixed: better in {primary}, worse in {', '.join(worse)}. {sentence}")
    return CompareVerdict(verdict.kind, sentence)


def _order_alone(auc: Interval | None) -> str:
    """The addition if the AUC is decided and the log loss is not."""
    if auc is None or not auc.decided:
        return ""
    better = "better" if auc.value > 0.0 else "worse"
    return (
        f". The AUC is {better} ({auc.value:+.4f}, 95 %: {auc.low:+.4f} to {auc.high:+.4f}), which "
        "decides if only the order counts"
    )


def _ranked(summaries: Sequence[Summary], auc: Interval | None) -> str:
    a, b = (summary["auc"] for summary in summaries)
    if a is None or b is None:
        return ""
    if auc is not None and not auc.decided:
        return f", with no significant change of AUC ({a:.4f} and {b:.4f})"
    return f", AUC {a:.4f} → {b:.4f}"


def _worse(cuts: Sequence[Cut]) -> str:
    """The slices in which the better run is significantly worse, the largest first."""
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
    return f". It is worse in: {named}{more}"


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"


def _signed(share: float) -> str:
    return f"{share:+.1%}" if abs(share) >= 0.01 else f"{share:+.2%}"
