"""What Open Bandit Pipeline (obp) says of its own synthetic data: the reference of
`freshet.decide.offpolicy`.

    python -m venv obp-env
    obp-env/bin/pip install --no-deps --ignore-requires-python obp==0.5.7
    obp-env/bin/pip install numpy pandas scikit-learn scipy tqdm pyyaml matplotlib torch
    obp-env/bin/python benchmarks/obp_reference.py tests/freshet/decide/data/obp.json

Writes obp's inputs and outputs as JSON, which the tests read: they need no obp.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import obp
from obp.dataset import (
    SyntheticBanditDataset,
    SyntheticSlateBanditDataset,
    logistic_reward_function,
)
from obp.ope import (
    DoublyRobust,
    InverseProbabilityWeighting,
    SelfNormalizedInverseProbabilityWeighting,
    SelfNormalizedSlateIndependentIPS,
    SlateIndependentIPS,
)

ROUNDS, ACTIONS, SLOTS = 150, 4, 3


def one_action() -> dict[str, Any]:
    """One action a round: IPS, SNIPS and doubly robust."""
    data = SyntheticBanditDataset(
        n_actions=ACTIONS, dim_context=3, beta=1.0, reward_function=logistic_reward_function, random_state=1
    )
    log = data.obtain_batch_bandit_feedback(n_rounds=ROUNDS)
    rng = np.random.default_rng(2)
    policy = rng.dirichlet(np.ones(ACTIONS), ROUNDS)
    q = np.clip(log["expected_reward"] + rng.normal(0.0, 0.1, (ROUNDS, ACTIONS)), 0.0, 1.0)
    given = {
        "reward": log["reward"],
        "action": log["action"],
        "pscore": log["pscore"],
        "action_dist": policy[:, :, None],
        "position": None,
    }
    regression = {"estimated_rewards_by_reg_model": q[:, :, None]}
    return {
        "reward": log["reward"].tolist(),
        "action": log["action"].tolist(),
        "pscore": log["pscore"].tolist(),
        "policy": policy.tolist(),
        "q": q.tolist(),
        "ips": InverseProbabilityWeighting().estimate_policy_value(**given),
        "snips": SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**given),
        "dr": DoublyRobust().estimate_policy_value(**given, **regression),
    }


def slates() -> dict[str, Any]:
    """Slates whose slots earn independently: IPS and SNIPS slot by slot."""
    data = SyntheticSlateBanditDataset(
        n_unique_action=5, len_list=SLOTS, dim_context=3, reward_type="binary",
        reward_structure="independent", click_model=None, random_state=3,
    )  # fmt: skip
    log = data.obtain_batch_bandit_feedback(n_rounds=ROUNDS, return_pscore_item_position=True)
    rng = np.random.default_rng(4)
    given = {
        "slate_id": log["slate_id"],
        "reward": log["reward"],
        "position": log["position"],
        "pscore_item_position": log["pscore_item_position"],
        "evaluation_policy_pscore_item_position": rng.random(len(log["reward"])),
    }
    found = {name: np.asarray(values).tolist() for name, values in given.items()}
    found["ips"] = SlateIndependentIPS(len_list=SLOTS).estimate_policy_value(**given)
    found["snips"] = SelfNormalizedSlateIndependentIPS(len_list=SLOTS).estimate_policy_value(**given)
    return found


if __name__ == "__main__":
    result = {"obp": obp.__version__, "one_action": one_action(), "slates": slates()}
    Path(sys.argv[1]).write_text(json.dumps(result, default=float) + "\n")
