"""Logs for tests: one in memory, and one that fails as a seed decides.

log = FaultyLog(MemoryLog(), seed=7, faults=Faults(append_in_doubt=0.1, away=0.02))
"""

from stream.log.testing.faulty import Faults, FaultyLog
from stream.log.testing.memory import MemoryLog

__all__ = ["Faults", "FaultyLog", "MemoryLog"]
