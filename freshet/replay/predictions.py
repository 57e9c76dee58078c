"""The predictions of a replay, one row per candidate with its features: a Parquet file.

The file is an export of the scored examples (docs/parquet.md) with two more columns, `base` and `corrected`.
With several targets it holds those of the first.
Two replays of the same data have the same rows in the same order, so they can be compared request by request
and sliced by feature.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from freshet.config import Config
from freshet.errors import ReplayError
from freshet.progress import progress
from freshet.replay.tape import ReplayOptions, Tape, open_played
from learner.features.encoder import Encoder
from learner.features.labelled import lessons_of
from stream.files.record_columns import PREDICTION_COLUMNS, Survey
from stream.files.record_files import RecordWriter, whole_or_nothing
from stream.records.refusals import Refusals
from stream.records.targets import Targets
from stream.records.types import Example, picked

Floats = npt.NDArray[np.float64]


def write_predictions(
    path: Path, config: Config, options: ReplayOptions, refused: int, base: Floats, corrected: Floats
) -> None:
    """Play the tape again and write each example with its predictions.

    Args:
        refused: number of examples that do not fit the schema.
        base, corrected: (n,), predictions of all scored candidates, in the tape's order.

    Raises:
        ReplayError: the file cannot be written, or the data has changed since the replay.
    """
    tape = open_played(config, options)
    encoder = Encoder(config.features, config.learner.pairs_max) if refused else None
    targets = config.known_targets()

    changed = ReplayError(
        f"{path}: the data has changed since it was replayed; give --from and --to, and try again"
    )
    try:
        survey = Survey("examples")
        with progress("looking ", tape.total) as advance:
            for example in _scored(tape, encoder, targets):
                survey.add(example)
                advance(1)
        at = 0
        with (
            whole_or_nothing(path) as making,
            RecordWriter(making, survey.layout(), PREDICTION_COLUMNS) as writer,
            progress("writing ", tape.total) as advance,
        ):
            for example in _scored(tape, encoder, targets):
                advance(1)
                part = slice(at, at + len(example.labels))
                at = part.stop
                if at > len(base):
                    raise changed
                values = (base[part].tolist(), corrected[part].tolist())
                writer.add(example, dict(zip(PREDICTION_COLUMNS, values, strict=True)))
            if at != len(base):
                raise changed
    except OSError as error:
        raise ReplayError(f"{path}: the predictions cannot be written: {error.strerror}") from None
    finally:
        tape.close()


def _scored(tape: Tape, encoder: Encoder | None, targets: Targets) -> Iterator[Example]:
    """The examples of the first target that a replay scores, without forgotten ids.

    Args:
        encoder: skips examples that do not fit the schema; None: all fit.
    """
    refusals = Refusals()
    tape.on_forget = refusals.add
    for example in tape:
        left = refusals.admit(example)
        if left is not None and not (left.target or left.late) and (encoder is None or encoder.fits(left)):
            quiet = lessons_of([left], targets).quiet
            if not quiet.any():
                yield left
            elif not quiet.all():
                yield _of(left, np.flatnonzero(~quiet).tolist())


def _of(example: Example, candidates: list[int]) -> Example:
    """The example with some of its candidates only."""
    return msgspec.structs.replace(
        example,
        candidates=picked(example.candidates, candidates) or [],
        labels=picked(example.labels, candidates) or [],
        served=None if example.served is None else example.served.picked(candidates),
        place=picked(example.place, candidates),
        propensity=picked(example.propensity, candidates),
        weight=picked(example.weight, candidates),
    )
