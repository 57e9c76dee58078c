"""`freshet warm`: start a learner's state from vectors and weights in files."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from freshet.config import Config
from freshet.errors import WarmError
from freshet.replay.new_state import commit_new, new_state
from freshet.warm.filling import warm
from learner.role.boundary import Boundary
from learner.role.learner import Learner


def parse_vectors(texts: Sequence[str]) -> Mapping[str, str]:
    """From `FEATURE=FILE` each.

    Raises:
        WarmError: a text is no such pair, or a feature is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        feature, sign, file = text.partition("=")
        if not sign or not feature or not file:
            raise WarmError(f"--vectors {text}: expected FEATURE=FILE, for example item=items.parquet")
        if feature in found:
            raise WarmError(f"--vectors {text}: feature {feature} has a file already, {found[feature]}")
        found[feature] = file
    return found


def run_warm(config: Config, vectors: Sequence[str], network: str | None, time: float) -> None:
    """Write a new state of this config's learner, and print what matched.

    Raises:
        WarmError: nothing is given, or a file does not fit; nothing is written then.
        TrainError: a state exists already.
    """
    files = parse_vectors(vectors)
    if not files and network is None:
        raise WarmError("name what to begin with: --vectors FEATURE=FILE, --network FILE, or both")
    with new_state(config) as (state, log_position, log):
        learner = Learner(config.features, config.learner, state, config.known_targets())
        learner.publish_to(log)
        learner.go_on_in_log(Boundary(0.0, 0.0), log_position)  # every example of the log is still to learn
        done = warm(learner, files.items(), network, time, Path())
        commit_new(learner, state, last=True)
    for line in done:
        print(line, file=sys.stderr)
    print(
        f"state in {config.state_of('learn')}; start `freshet up` (or `freshet learn`): it learns the "
        "examples of the log on top",
        file=sys.stderr,
    )
