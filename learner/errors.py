"""What can go wrong in the learner, named by cause.

FreshetError
├── DeviceError       a network that is to be learned on a GPU, and there is none
├── FeatureError      a request that the declared features cannot take; or a schema that makes no sense
├── NetworkError      a network of your own that cannot be used
├── ShardError        shards that do not fit together, or a message between them that is damaged
│   └── ShardLostError    a shard is gone, or has not come: all of them begin again
├── TorchMissingError a network that PyTorch learns, where PyTorch is not installed
└── UpdateError       an update or snapshot that cannot be read
    ├── UpdateDamagedError    its bytes are not those that were written
    ├── UpdateGapError        updates are missing before one that came
    └── OtherModelError       it is of another model than the configured one
"""

from ground import FreshetError


class DeviceError(FreshetError):
    """`learner.device` is a GPU that PyTorch does not find; the message says what to do."""


class FeatureError(FreshetError):
    """A feature's value is not of its declared kind, or the declaration itself makes no sense."""


class NetworkError(FreshetError):
    """The class that `learner.deep` names cannot be found, made or used; the message says what is wrong."""


class ShardError(FreshetError):
    """The shards of a learner do not fit together, or a message between them is cut off or damaged."""


class ShardLostError(ShardError):
    """A shard is gone, hangs, or has not come; all return to their last common commit, and begin again."""


class TorchMissingError(FreshetError):
    """A network is learned by PyTorch, which is not installed; the message says how to install it."""


class UpdateError(FreshetError):
    """An update or a snapshot chunk cannot be read or does not fit the model."""


class UpdateDamagedError(UpdateError):
    """The bytes of an update or a snapshot chunk are not those that were written."""


class UpdateGapError(UpdateError):
    """Updates are missing before the one that came."""


class OtherModelError(UpdateError):
    """An update or a snapshot is of a model with other features or settings than the configured one."""
