"""What can go wrong at Freshet's face, named by cause.

FreshetError
├── ConfigError     the config file: missing, malformed, an unknown key, a value of the wrong kind
├── InitError       no config can be made for a data file
├── ReplayError     what was asked to be replayed cannot be: an empty range, a journal without its records
├── CompareError    replays cannot be compared: other data, no predictions
├── ExportError     a range cannot be written to a file, or there is nothing in it
├── SweepError      trials cannot be run: nothing to try, a folder of another sweep
├── TrainError      history cannot be learnt, or the log does not go on where it ends
├── ProduceError    a file's events cannot be sent
└── RoleError       a role of `freshet up` stopped and cannot be started again
"""

from ground import FreshetError


class ConfigError(FreshetError):
    """The config cannot be used; the message names the file, the key and what was expected."""


class InitError(FreshetError):
    """A data file of which no config can be made; the message says what was looked for."""


class ReplayError(FreshetError):
    """There is nothing to replay, or not all of it is there any more."""


class CompareError(FreshetError):
    """Replays cannot be compared; the message says what differs or what is missing."""


class ExportError(FreshetError):
    """Records cannot be written to a file, or there are none."""


class SweepError(FreshetError):
    """Trials cannot be run; the message says why."""


class TrainError(FreshetError):
    """History cannot be learnt from files, or not be gone on with from the log."""


class ProduceError(FreshetError):
    """The events of a file cannot be sent to the log."""


class RoleError(FreshetError):
    """A role stopped and cannot be started again; its own last words are in its output."""
