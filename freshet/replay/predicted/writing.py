"""The predictions of a replay, one row per candidate with its features: a Parquet file.

The file is an export of the scored examples (docs/parquet.md) with two more columns, `base` and `corrected`.
With several targets its rows are those of the first, with three columns for each further one, such as
`base.buy`, `corrected.buy` and `label.buy`: joint predictions, and what became of the candidate.
Two replays of the same data have the same rows in the same order, so they can be compared request by request
and sliced by feature.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from freshet.config import Config
from freshet.errors import ReplayError
from freshet.progress import progress
from freshet.replay.predicted.further import OutcomesOfTape, further_columns, written
from freshet.replay.tape import ReplayOptions, Tape, open_played
from learner.features.encoder import Encoder
from learner.features.labelled import lessons_of
from stream.files.record_columns import PREDICTION_COLUMNS, Survey
from stream.files.record_files import RecordWriter, whole_or_nothing
from stream.records.refusals import Refusals
from stream.records.targets import Targets
from stream.records.types import Example, Forget, picked

Floats = npt.NDArray[np.float64]


def write_predictions(
    path: Path,
    config: Config,
    options: ReplayOptions,
    refused: int,
    base: Floats,
    corrected: Floats,
    further: Mapping[str, Floats] | None = None,
) -> None:
    """Play the tape again and write each example with its predictions.

    Args:
        refused: number of examples that do not fit the schema.
        base, corrected: (n,), predictions of all scored candidates, in the tape's order.
        further: of several targets, by column the predictions (n,) of the further ones.

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
        columns = (*PREDICTION_COLUMNS, *further_columns(targets))
        survey = Survey("examples", columns)
        outcomes = OutcomesOfTape(targets)
        with progress("looking ", tape.total) as advance:
            for example in _scored(tape, encoder, targets, outcomes.add):
                survey.add(example)
                advance(1)
        if any(len(array) != len(base) for array in (further or {}).values()):
            raise changed
        at = 0
        with (
            whole_or_nothing(path) as making,
            RecordWriter(making, survey.layout(), columns) as writer,
            progress("writing ", tape.total) as advance,
        ):
            for example in _scored(tape, encoder, targets):
                advance(1)
                part = slice(at, at + len(example.labels))
                at = part.stop
                if at > len(base):
                    raise changed
                values = {"base": base[part].tolist(), "corrected": corrected[part].tolist()}
                if further:
                    values |= written(outcomes, further, example, part)
                writer.add(example, values)
            if at != len(base):
                raise changed
    except OSError as error:
        raise ReplayError(f"{path}: the predictions cannot be written: {error.strerror}") from None
    finally:
        tape.close()


def _scored(
    tape: Tape,
    encoder: Encoder | None,
    targets: Targets,
    on_further: Callable[[Example], None] = lambda example: None,
) -> Iterator[Example]:
    """The examples of the first target that a replay scores, without forgotten ids.

    Args:
        encoder: skips examples that do not fit the schema; None: all fit.
        on_further: gets the examples of further targets.
    """
    refusals = Refusals()
    tape.on_other = lambda found: refusals.add(found) if isinstance(found, Forget) else None
    for example in tape:
        left = refusals.admit(example)
        if left is not None and left.target in targets.names[1:]:
            on_further(left)
        elif left is not None and not (left.target or left.late) and (encoder is None or encoder.fits(left)):
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
