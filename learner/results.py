"""What reading and predicting a batch gives."""

from __future__ import annotations  # so that help() shows them as they are written

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ground.rows import Rows
from learner.fast.part import FastInputs, FastOutputs


class Scores(NamedTuple):
    """The base predictions of n rows, and the keys that an error memory needs to correct them."""

    z: npt.NDArray[np.float64]  # (n,), logit of the honest probability
    p: npt.NDArray[np.float64]  # (n,), that probability
    s2: npt.NDArray[np.float64]  # (n,), variance of the fast part's logit
    rows: Rows  # features, pairs and count columns: the error memory's keys
    unknown: int  # how many of the rows' feature entries have no row in their table


class Predicted(NamedTuple):
    """A base prediction of n rows with its intermediate results: rows read, and outputs of each part."""

    rows: Rows  # that were read, with what was filled in
    inputs: FastInputs
    outputs: FastOutputs
    z: npt.NDArray[np.float64]  # (n,), logit of the honest probability; of a value its mean, in its units
    p: npt.NDArray[np.float64]  # (n,), that probability; of a value its expectation


class Gathered(NamedTuple):
    """A batch's entries found in the tables. D is the sum of the tables' distinct rows."""

    order: npt.NDArray[np.int64]  # (E,), entries by table
    bounds: npt.NDArray[np.int64]  # (tables + 1,), into `order`
    place: npt.NDArray[np.int64]  # (E,), number of each entry's row among the D, -1 without one
    times: npt.NDArray[np.uint32]  # (E,), event time in whole seconds
    slots: list[npt.NDArray[np.int64]]  # the distinct slots of each table
    counts: npt.NDArray[np.uint32]  # (D,), of the rows as they were found; those of `inputs` are counted on
    inputs: FastInputs
