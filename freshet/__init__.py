"""Freshet: a model learns from each event of a stream, and the predictions that follow use what it learned.

This package holds the command line, the config, the roles and replay. The packages below do not import it:
`ground`, `stream`, `embeddings`, `error_memory`, `learner`, `serving`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from freshet.config import Config, load_config
    from freshet.errors import (
        CallError,
        CallFailedError,
        CallRefusedError,
        CompareError,
        ConfigError,
        ExportError,
        InitError,
        ModelError,
        OrderError,
        ProduceError,
        ReplayError,
        RoleError,
        SweepError,
        TrainError,
        WarmError,
    )
    from freshet.python.model import OnlineModel as Model
    from ground import FreshetError

__version__ = "0.1.0"

__all__ = [
    "CallError",
    "CallFailedError",
    "CallRefusedError",
    "CompareError",
    "Config",
    "ConfigError",
    "ExportError",
    "FreshetError",
    "InitError",
    "Model",
    "ModelError",
    "OrderError",
    "ProduceError",
    "ReplayError",
    "RoleError",
    "SweepError",
    "TrainError",
    "WarmError",
    "__version__",
    "load_config",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `freshet --help` does not import numpy."""
    if name in ("Config", "load_config"):
        from freshet import config

        return getattr(config, name)
    if name == "Model":
        from freshet.python.model import OnlineModel

        return OnlineModel
    if name in __all__:
        from freshet import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'freshet' has no attribute {name!r}")
