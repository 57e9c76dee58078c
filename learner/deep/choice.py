"""The network that the settings name: one that is built in, or a class of the user's."""

from collections.abc import Sequence

from learner.deep.networks import InputLayout, Network, make_network
from learner.deep.own.network import OwnNetwork
from learner.deep.own.source import is_own
from learner.settings import LearnerSettings
from stream.records.targets import PRIMARY


def network_of(
    settings: LearnerSettings, layout: InputLayout, targets: Sequence[str] = (PRIMARY,)
) -> Network | None:
    """The network of `settings.deep`, for targets of these names; None: there is no deep part.

    Raises:
        FeatureError: the features' embeddings do not suit it.
        NetworkError: a class of the user's cannot be used.
        TorchMissingError: that class needs torch, which is not installed.
    """
    if settings.deep == "none":
        return None
    if is_own(settings.deep):
        return OwnNetwork(settings, layout, targets)
    return make_network(settings.deep, layout, len(targets))
