"""`python -m freshet`: the same as the command `freshet`."""

import sys

try:
    from freshet.cli.main import main
except KeyboardInterrupt:  # Ctrl-C during the import
    sys.exit(130)

sys.exit(main())
