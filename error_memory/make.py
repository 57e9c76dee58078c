"""From settings to an error memory."""

from __future__ import annotations

from error_memory.errors import MemorySettingsError
from error_memory.protocol import ErrorMemory
from error_memory.settings import MemorySettings


def make_memory(settings: MemorySettings, columns: int, *, value: bool = False) -> ErrorMemory:
    """An empty memory of the configured kind for rows of at most `columns` columns.

    Args:
        value: it corrects numbers, not probabilities; see `ValueMemory`.

    Raises:
        MemorySettingsError: no columns, or an unknown kind.
    """
    if columns < 1:
        raise MemorySettingsError(f"an error memory needs at least one column, not {columns}")
    # Late imports: numba and its kernels take time to load.
    if value:
        from error_memory.values import ValueMemory, settings_of_value

        return ValueMemory(make_memory(settings_of_value(settings), columns), settings)
    match settings.kind:
        case "residual":
            from error_memory.residual.memory import ResidualMemory

            return ResidualMemory(settings, columns)
        case "sketch":
            from error_memory.baselines.sketch import SketchMemory

            return SketchMemory(settings, columns)
        case "neighbours":
            from error_memory.baselines.neighbours import NeighbourMemory

            return NeighbourMemory(settings, columns)
        case "none":
            from error_memory.baselines.nothing import NoMemory

            return NoMemory(settings, columns)
    raise MemorySettingsError(
        f"unknown kind of error memory {settings.kind!r}: use residual, sketch, neighbours or none"
    )
