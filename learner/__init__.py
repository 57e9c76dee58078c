"""The learner: features, the model in its two parts, progressive metrics, and the loop that learns.

from learner import Example, FeatureSpec, LearnerSettings, Model, Request, Trainer

model = Model({"user": FeatureSpec(), "item": FeatureSpec()}, LearnerSettings(), learning=True)
trainer = Trainer(model)
learnt = trainer.learn(examples)  # predictions from before, of the groups that are complete
scores = model.score_requests([Request(time, {"user": "ann"}, [{"item": 1}, {"item": 2}])])
"""

import importlib
from typing import TYPE_CHECKING

from learner.errors import (
    DeviceError,
    FeatureError,
    NetworkError,
    OtherModelError,
    ShardError,
    TorchMissingError,
    UpdateDamagedError,
    UpdateError,
    UpdateGapError,
)

if TYPE_CHECKING:
    from learner.features.encoder import FeatureSpec, Request
    from learner.model.model import Model, Scores
    from learner.settings import LearnerSettings
    from learner.train.trainer import Learnt, Trainer
    from stream.records.types import Example

__all__ = [
    "DeviceError",
    "Example",
    "FeatureError",
    "FeatureSpec",
    "LearnerSettings",
    "Learnt",
    "Model",
    "NetworkError",
    "OtherModelError",
    "Request",
    "Scores",
    "ShardError",
    "TorchMissingError",
    "Trainer",
    "UpdateDamagedError",
    "UpdateError",
    "UpdateGapError",
]

_HOMES = {
    "Example": "stream.records.types",
    "FeatureSpec": "learner.features.encoder",
    "LearnerSettings": "learner.settings",
    "Learnt": "learner.train.trainer",
    "Model": "learner.model.model",
    "Request": "learner.features.encoder",
    "Scores": "learner.model.model",
    "Trainer": "learner.train.trainer",
}


def __getattr__(name: str) -> object:
    """Import on first use: the model imports numba, which would slow the start of a command line."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'learner' has no attribute {name!r}")
