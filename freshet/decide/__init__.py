"""Is a change better? Comparisons, sweeps, off-policy estimates."""
