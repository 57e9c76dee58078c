"""What can go wrong in the stream, named by cause.

FreshetError
├── LogError                the log cannot be reached, read or written
│   ├── LogAwayError        it does not answer for now; the same call may succeed later
│   └── RecordsGoneError    it has dropped records that are needed
├── GroupError              a process cannot be a member of its role's group
├── RecordError             a record that cannot be used; goes to the dead letters
├── ProducerError           events of a program cannot be sent
│   ├── BufferFullError     the send buffer is full; this event was not accepted
│   └── UndeliveredError    the log has not confirmed some in time
├── DeadLetterError         there is no such dead letter
├── SourceError             a data file that cannot be read as configured
├── StateError              a role's state cannot be opened, read or written
│   ├── StateLockedError    another process holds it
│   ├── StateDamagedError   the data on the disk is corrupt
│   └── StateFullError      the disk is full; the state is at its last commit
└── DeadLetterFloodError    too many bad records in a window; the role stops
"""

from ground import FreshetError


class LogError(FreshetError):
    """The log cannot be reached, read or written."""


class LogAwayError(LogError):
    """The log does not answer for now; the same call may be retried.

    After a failed append the records may or may not be in the log. Records that carry a producer and a
    sequence number can be sent again, because the receiver drops duplicates.
    """


class RecordsGoneError(LogError):
    """The log has dropped records that this role has yet to take."""


class GroupError(FreshetError):
    """A process cannot be a member of its role's group."""


class RecordError(FreshetError):
    """A record that cannot be used; the message is the reason written beside its dead letter."""


class ProducerError(FreshetError):
    """Events of a program cannot be sent."""


class BufferFullError(ProducerError):
    """The send buffer is full and this event was not accepted; the message says why."""


class UndeliveredError(ProducerError):
    """The log has not confirmed some events in time; the message says how many and if they are retried."""


class DeadLetterError(FreshetError):
    """There is no such dead letter."""


class SourceError(FreshetError):
    """A data file that cannot be read as configured; names the file and the line."""


class StateError(FreshetError):
    """A role's state cannot be opened, read or written."""


class StateLockedError(StateError):
    """Another process holds the state folder; the message names its pid."""


class StateDamagedError(StateError):
    """The data on the disk is corrupt; the message says how the role can start without it."""


class StateFullError(StateError):
    """The disk is too full for a commit. The state stays at its last commit; reopen it later."""


class DeadLetterFloodError(FreshetError):
    """More bad records in a window than configured; the role stops instead of draining the stream."""
