"""The root of every error that a user of Freshet can cause.

Each package derives its own errors from it, named for their cause:

    FreshetError
    ├── stream.errors        LogError, RecordError, StateError, SourceError, ...
    ├── embeddings.errors    TableError, ...
    ├── error_memory.errors  MemoryStateError, ...
    ├── learner.errors       FeatureError, CheckpointError, ...
    ├── serving.errors       RequestError, ...
    └── freshet.errors       ConfigError, ...

The command line prints the message of a `FreshetError` and exits with 2; any other exception is a
defect of Freshet and keeps its traceback.
"""

import msgspec

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders of msgspec raise for bytes that they cannot read.

Text that is no UTF-8, and what is nested too deeply, are no errors of msgspec's own. Whoever decodes bytes
from outside and catches less ends with a traceback that anybody can cause.
"""


class FreshetError(Exception):
    """An error that the user can fix; the message says what is wrong and what to do."""
