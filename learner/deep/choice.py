"""The network that the settings name: one that is built in, or a class of the user's."""

from learner.deep.networks import InputLayout, Network, make_network
from learner.deep.own.network import OwnNetwork
from learner.deep.own.source import is_own
from learner.errors import NetworkError
from learner.settings import LearnerSettings


def network_of(settings: LearnerSettings, layout: InputLayout, targets: int = 1) -> Network | None:
    """The network of `settings.deep`, for so many targets; None: there is no deep part.

    Raises:
        FeatureError: the features' embeddings do not suit it.
        NetworkError: a class of the user's cannot be used.
        TorchMissingError: that class needs torch, which is not installed.
    """
    if settings.deep == "none":
        return None
    if is_own(settings.deep):
        if targets > 1:
            raise NetworkError(
                f"learner.deep = {settings.deep!r} predicts one target, and {targets} are declared: choose a "
                "network that is built in, or declare one target"
            )
        return OwnNetwork(settings, layout)
    return make_network(settings.deep, layout, targets)
