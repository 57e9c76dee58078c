"""Errors that a user of the command line can cause, named by cause.

FreshetError
├── ConfigError     the config file: missing, malformed, an unknown key, a value of the wrong kind
├── InitError       no config can be made for a data file
├── ReplayError     the data cannot be replayed: an empty range, a journal whose records are gone
├── CompareError    replays cannot be compared: other data, no predictions
├── ExportError     a range cannot be written to a file, or there is nothing in it
├── SweepError      trials cannot be run: nothing to try, or a folder of another sweep
├── TrainError      history cannot be trained on, or the log does not continue it
├── WarmError       a file of vectors or weights cannot be read, or does not fit the model
├── ModelError      what a `Model` is given: rows, labels, or a file that holds no model
├── CallError       a call of `freshet.client`
│   ├── CallRefusedError    the server refused the request: 4xx
│   └── CallFailedError     the server could not be reached, or failed, as often as it was tried
├── OrderError      an order for the models of a log: shares that do not add up, a model that is behind
├── ProduceError    a file's events cannot be sent
└── RoleError       a role of `freshet up` stopped and cannot be started again
"""

from ground import FreshetError


class ConfigError(FreshetError):
    """The config cannot be used; the message names the file, the key and what was expected."""


class InitError(FreshetError):
    """No config can be made from a data file; the message names the missing column."""


class ReplayError(FreshetError):
    """There is nothing to replay, or some of its records are gone."""


class CompareError(FreshetError):
    """Replays cannot be compared; the message says what differs or what is missing."""


class ExportError(FreshetError):
    """Records cannot be written to a file, or there are none."""


class SweepError(FreshetError):
    """Trials cannot be run; the message says why."""


class TrainError(FreshetError):
    """History in files cannot be trained on, or the log does not continue it."""


class WarmError(FreshetError):
    """A model cannot begin with a file of vectors or weights; the message names the file."""


class ModelError(FreshetError):
    """A `Model` cannot use the rows, labels or file that it is given; the message names the row."""


class CallError(FreshetError):
    """A call of a `Client` has no answer."""


class CallRefusedError(CallError):
    """The server refused the request; the message is the server's."""


class CallFailedError(CallError):
    """The server could not be reached or failed, as often as the call was tried."""


class OrderError(FreshetError):
    """An order for the models of a log cannot be given, or is not followed; the message says why."""


class ProduceError(FreshetError):
    """The events of a file cannot be sent to the log."""


class RoleError(FreshetError):
    """A role stopped and cannot be started again; the reason is at the end of its output."""
