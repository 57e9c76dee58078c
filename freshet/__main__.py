"""`python -m freshet`: the same as the command `freshet`."""

import sys

try:
    from freshet.cli.main import main
except KeyboardInterrupt:  # Ctrl-C before anything was begun
    sys.exit(130)

sys.exit(main())
