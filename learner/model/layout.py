"""The deep part's inputs, by name and width."""

from learner.deep.networks import InputLayout
from learner.fast.part import FastPart
from learner.features.encoder import Encoder


def input_layout(encoder: Encoder, fast: FastPart) -> InputLayout:
    """How the deep part's inputs are laid out, side by side in this order.

    `embedding.NAME` of each column that has one; `means`, the fast part's mean of each of its weight columns;
    `counts`, the scaled logarithm of the sightings of each counted feature; `numbers`, the squashed values of
    the features of kind number and age; `logit`, the fast part's.
    """
    embeddings = [(name, dim) for name, dim in zip(encoder.names, encoder.dims, strict=True) if dim]
    dims = [dim for _, dim in embeddings]
    names = [(f"embedding.{name}", dim) for name, dim in embeddings]
    names += [
        ("means", fast.width),
        ("counts", fast.counted),
        ("numbers", len(encoder.numbers)),
        ("logit", 1),
    ]
    return InputLayout(tuple(dims), sum(width for _, width in names), tuple(names))
