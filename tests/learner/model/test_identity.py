"""Which model weights are of: what makes them another's, and what does not."""

import msgspec
import pytest

from learner.features.encoder import FeatureSpec
from learner.model.identity import (
    HANDLING,
    LATER,
    LAYOUT,
    LEARNING,
    fingerprint,
    identity,
    learning_identity,
)
from learner.settings import LearnerSettings

FEATURES = {"user": FeatureSpec(dim=4), "item": FeatureSpec(dim=4, ttl_s=60.0)}
SETTINGS = LearnerSettings()


def test_every_setting_is_said_to_change_the_layout_the_learning_or_neither() -> None:
    named = [*LAYOUT, *LEARNING, *LATER, *HANDLING]
    assert sorted(named) == sorted(LearnerSettings.__struct_fields__)


def test_state_of_before_tables_made_room_by_default_has_the_same_fingerprint() -> None:
    assert fingerprint({"item": FeatureSpec()}, SETTINGS) == {
        "features": '[["item",{"kind":"id","dim":16,"of":"","length":50,"attention":"decoupled",'
        '"counts":null,"pairs":true,"ttl_s":0.0,"admit_after":1,"admit_share":1.0,"rows_max":16777216,'
        '"evict":"none","optimizer":"adagrad","rate":0.0}]]',
        "learner": '{"deep":"dcn","pair_speeds":[1.0,0.98],"pairs_max":64,"seed":0,"speeds":[1.0,0.99,0.9]}',
    }


@pytest.mark.parametrize("change", [{"optimizer": "adam"}, {"dim": 8}, {"pairs": False}, {"ttl_s": 61.0}])
def test_another_feature_is_another_model(change: dict[str, object]) -> None:
    changed = {**FEATURES, "item": msgspec.structs.replace(FEATURES["item"], **change)}
    assert identity(changed, SETTINGS) != identity(FEATURES, SETTINGS)


def test_order_of_features_and_network_make_another_model_and_its_rates_only_another_learner() -> None:
    mine = identity(FEATURES, SETTINGS)
    assert identity(dict(reversed(FEATURES.items())), SETTINGS) != mine
    assert identity(FEATURES, LearnerSettings(deep="none")) != mine
    faster = LearnerSettings(deep_rate=1.0)
    assert identity(FEATURES, faster) == mine
    assert learning_identity(faster, True) != learning_identity(SETTINGS, True)
    assert learning_identity(LearnerSettings(publish_every_s=9.0), True) == learning_identity(SETTINGS, True)
    assert learning_identity(SETTINGS, False) != learning_identity(SETTINGS, True)
