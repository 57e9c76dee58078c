"""The deep part's networks, by name: each defines its weights' shapes and its residual logit.

All of them see the same inputs x0 (n, width): the features' embeddings first, side by side, then the
fast part's means, scaled counts, numbers, and the fast logit. All start with a
residual of zero, since the weights of the last layer start at zero.

A class of the user's is a network too: see `learner.deep.own`.

`trunk` is written once for numpy (prediction) and torch (training): `xp` is either module.

| name | what it adds to a linear layer | source |
|---|---|---|
| `dcn` | two full-rank cross layers beside an MLP | DCN-v2: Wang et al. 2021, arXiv 2008.13535 |
| `deepfm` | products of all pairs of embeddings, beside an MLP | Guo et al. 2017, arXiv 1703.04247 |
| `dlrm` | an MLP over the dot products of all pairs of embeddings | Naumov et al. 2019, arXiv 1906.00091 |
| `logistic` | nothing | |
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from learner.errors import FeatureError

Array = npt.NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]
Tensor = Any
"""A numpy array or a torch tensor."""
Tensors = Mapping[str, Tensor]
"""Weights by name, all numpy arrays or all torch tensors."""

CROSS_LAYERS = 2
HIDDEN = (64, 32)


def out_name(target: int) -> str:
    """The name of a target's output vector."""
    return f"out{target or ''}.w"


class InputLayout(NamedTuple):
    """How the inputs are laid out: F embeddings of the given widths, then the rest."""

    embeddings: tuple[int, ...]  # width of each
    width: int  # of everything
    names: tuple[tuple[str, int], ...] = ()  # every input's name and width, in order: see `input_layout`

    @property
    def dense(self) -> int:
        """How many inputs are not embeddings."""
        return self.width - sum(self.embeddings)


class Network:
    """The interface of every network. Targets share it but for an output vector each.

    Raises:
        FeatureError: the features' embeddings do not suit the network.
    """

    def __init__(self, layout: InputLayout, targets: int = 1) -> None:
        self.layout = layout
        self.targets = targets

    def shapes(self) -> Shapes:
        """Names and shapes of the weights; matrices are (out, in). The output vectors come last."""
        trunk = self.trunk_shapes()
        last = trunk.pop(out_name(0))
        return trunk | {out_name(t): last for t in range(self.targets)}

    def trunk_shapes(self) -> Shapes:
        """The shapes for one target."""
        raise NotImplementedError

    def trunk(self, w: Tensors, x0: Tensor, xp: Any = np) -> list[Tensor]:
        """The last layers of inputs (n, width), side by side (n, out): the residual is their product with
        the target's output vector."""
        raise NotImplementedError

    def forward(self, w: Tensors, x0: Tensor, xp: Any = np, target: int = 0) -> Tensor:
        """The residual logit (n,) of inputs (n, width) for one target."""
        out = w[out_name(target)]
        residual, at = None, 0
        for part in self.trunk(w, x0, xp):
            added = part @ out[at : at + part.shape[1]]
            residual = added if residual is None else residual + added
            at += part.shape[1]
        return residual

    def forward_each(self, w: Tensors, x0: Tensor, target: Tensor, xp: Any = np) -> Tensor:
        """The residual logit (n,) of inputs (n, width), each for its own target (n,)."""
        if self.targets == 1:
            return self.forward(w, x0, xp)
        out = xp.stack([w[out_name(t)] for t in range(self.targets)])[target]  # (n, out)
        return (xp.concatenate(self.trunk(w, x0, xp), 1) * out).sum(1)

    def add_residual(self, w: Tensors, x0: Array, z: npt.NDArray[np.float64], target: int = 0) -> None:
        """Add to logits z (n,) the residual logits of inputs (n, width) for one target."""
        z += self.forward(w, x0, target=target)

    @property
    def weight_count(self) -> int:
        """How many weights there are."""
        return sum(int(np.prod(shape)) for shape in self.shapes().values())

    def split(self, flat: Array) -> dict[str, Array]:
        """Views of the flat weight vector (weight_count,) by name."""
        views = {}
        at = 0
        for name, shape in self.shapes().items():
            size = int(np.prod(shape))
            views[name] = flat[at : at + size].reshape(shape)
            at += size
        return views

    def initial_weights(self, seed: int) -> Array:
        """The first weights: uniform in ±1/sqrt(in) as torch does for linear layers; the output at zero."""
        rng = np.random.default_rng(seed)
        flat = np.zeros(self.weight_count, dtype=np.float32)
        for name, view in self.split(flat).items():
            if not name.startswith("out") and not name.endswith(".b"):
                bound = 1.0 / np.sqrt(view.shape[1])
                view[...] = rng.uniform(-bound, bound, view.shape)
        return flat

    def _equal_widths(self) -> int:
        widths = set(self.layout.embeddings)
        if len(widths) != 1:
            raise FeatureError(
                f"the {type(self).__name__} network multiplies embeddings with each other: give all features "
                f"the same dim (they have {sorted(widths)})"
            )
        return widths.pop()


def _mlp_shapes(prefix: str, inside: int, hidden: tuple[int, ...]) -> Shapes:
    found: Shapes = {}
    for i, outside in enumerate(hidden):
        found[f"{prefix}{i}.w"] = (outside, inside)
        found[f"{prefix}{i}.b"] = (outside,)
        inside = outside
    return found


def _mlp(w: Tensors, prefix: str, h: Tensor, layers: int) -> Tensor:
    for i in range(layers):
        h = (h @ w[f"{prefix}{i}.w"].T + w[f"{prefix}{i}.b"]).clip(0.0)
    return h


class Logistic(Network):
    """A linear layer: z = w·x0."""

    def trunk_shapes(self) -> Shapes:
        return {"out.w": (self.layout.width,)}

    def trunk(self, w: Tensors, x0: Tensor, xp: Any = np) -> list[Tensor]:
        return [x0]


class DCN(Network):
    """x_{l+1} = x0 ⊙ (W x_l + b) + x_l twice, beside an MLP 64–32; z = w·[x_2, h]."""

    def trunk_shapes(self) -> Shapes:
        width = self.layout.width
        found: Shapes = {}
        for i in range(CROSS_LAYERS):
            found[f"cross{i}.w"] = (width, width)
            found[f"cross{i}.b"] = (width,)
        found |= _mlp_shapes("mlp", width, HIDDEN)
        found["out.w"] = (width + HIDDEN[-1],)
        return found

    def trunk(self, w: Tensors, x0: Tensor, xp: Any = np) -> list[Tensor]:
        x = x0
        for i in range(CROSS_LAYERS):
            x = x0 * (x @ w[f"cross{i}.w"].T + w[f"cross{i}.b"]) + x  # (n, width)
        return [x, _mlp(w, "mlp", x0, len(HIDDEN))]


class DeepFM(Network):
    """Second order: ½((Σe)² − Σe²), per dimension (n, d); z = w·[x0, second order, MLP 64–32 of x0].

    Each dimension of the second order has a weight, where the paper has ones, so that it can start at zero.
    """

    def __init__(self, layout: InputLayout, targets: int = 1) -> None:
        super().__init__(layout, targets)
        self._dim = self._equal_widths()

    def trunk_shapes(self) -> Shapes:
        width = self.layout.width
        return {**_mlp_shapes("mlp", width, HIDDEN), "out.w": (width + self._dim + HIDDEN[-1],)}

    def trunk(self, w: Tensors, x0: Tensor, xp: Any = np) -> list[Tensor]:
        fields = len(self.layout.embeddings)
        e = x0[:, : fields * self._dim].reshape(-1, fields, self._dim)  # (n, F, d)
        total = e.sum(1)
        second = (total * total - (e * e).sum(1)) * 0.5  # (n, d)
        return [x0, second, _mlp(w, "mlp", x0, len(HIDDEN))]


class DLRM(Network):
    """A bottom layer turns the dense inputs into one more embedding; z = w·MLP 64–32 of [it, all dot
    products]."""

    def __init__(self, layout: InputLayout, targets: int = 1) -> None:
        super().__init__(layout, targets)
        self._dim = self._equal_widths()
        # Pairs of the F embeddings and the bottom one, (i, j) with i < j.
        upper = np.triu_indices(len(layout.embeddings) + 1, 1)
        self._left, self._right = upper[0].tolist(), upper[1].tolist()

    def trunk_shapes(self) -> Shapes:
        return {
            **_mlp_shapes("bottom", self.layout.dense, (self._dim,)),
            **_mlp_shapes("mlp", self._dim + len(self._left), HIDDEN),
            "out.w": (HIDDEN[-1],),
        }

    def trunk(self, w: Tensors, x0: Tensor, xp: Any = np) -> list[Tensor]:
        fields = len(self.layout.embeddings)
        bottom = _mlp(w, "bottom", x0[:, fields * self._dim :], 1)  # (n, d)
        e = x0[:, : fields * self._dim].reshape(-1, fields, self._dim)
        e = xp.concatenate([e, bottom[:, None, :]], 1)  # (n, F + 1, d)
        dots = (e @ e.swapaxes(1, 2))[:, self._left, self._right]  # (n, pairs)
        return [_mlp(w, "mlp", xp.concatenate([bottom, dots], 1), len(HIDDEN))]


NETWORKS: dict[str, type[Network]] = {"dcn": DCN, "deepfm": DeepFM, "dlrm": DLRM, "logistic": Logistic}


def make_network(name: str, layout: InputLayout, targets: int = 1) -> Network:
    """The network of that name, for so many targets.

    Raises:
        FeatureError: the features' embeddings do not suit it.
    """
    return NETWORKS[name](layout, targets)
