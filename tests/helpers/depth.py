"""How many examples hypothesis makes: few every day, many with `make test-deep`."""

import os


def many(usual: int) -> int:
    """`usual`, or FRESHET_EXAMPLES times as many."""
    return usual * int(os.environ.get("FRESHET_EXAMPLES", "1"))
