"""What can go wrong in the stream, named by cause.

FreshetError
├── LogError                the log cannot be reached, read or written
│   └── LogAwayError        it does not answer for now; the same call may succeed later
├── GroupError              a process cannot be a member of its role's group
├── RecordError             a record that cannot be used; goes to the dead letters
├── ProducerError           events of a program cannot be sent
│   ├── BufferFullError     too many wait for the log already; this one was not taken
│   └── UndeliveredError    the log has not confirmed some in time
├── DeadLetterError         there is no such dead letter
├── SourceError             a data file that cannot be read as configured
├── StateError              a role's state cannot be opened, read or written
│   ├── StateLockedError    another process holds it
│   ├── StateDamagedError   what is on the disk is not what was written
│   └── StateFullError      there is no room on the disk for it now; it is at its last commit
└── DeadLetterFloodError    too many bad records in a window; the role stops
"""

from ground import FreshetError


class LogError(FreshetError):
    """The log cannot be reached, read or written."""


class LogAwayError(LogError):
    """The log does not answer for now: what was asked may be asked again.

    After an append it is not known whether the records are there; those that carry a producer and a
    sequence number may be sent again, since their receiver recognises them.
    """


class GroupError(FreshetError):
    """A process cannot be a member of its role's group."""


class RecordError(FreshetError):
    """A record that cannot be used; the message is the reason written beside its dead letter."""


class ProducerError(FreshetError):
    """Events of a program cannot be sent."""


class BufferFullError(ProducerError):
    """Too many events wait for the log already; the message says why, and that this one was not taken."""


class UndeliveredError(ProducerError):
    """The log has not confirmed some events in time; the message says how many, and what becomes of them."""


class DeadLetterError(FreshetError):
    """There is no such dead letter."""


class SourceError(FreshetError):
    """A data file that cannot be read as configured; names the file and the line."""


class StateError(FreshetError):
    """A role's state cannot be opened, read or written."""


class StateLockedError(StateError):
    """Another process holds the state folder; the message names its pid."""


class StateDamagedError(StateError):
    """What is on the disk is not what was written; the message says where the role may begin instead."""


class StateFullError(StateError):
    """There is no room on the disk for a commit: opened anew when there is, the state is at its last one."""


class DeadLetterFloodError(FreshetError):
    """More bad records in a window than configured; the role stops instead of draining the stream."""
