"""What the benchmarks on MovieTweetings share: their options, and where the data lies."""

import argparse
import os
from pathlib import Path

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "movietweetings"


def parse_options(doc: str | None, quick: str) -> argparse.Namespace:
    """--quick, --data and --json; doc is shown by --help, and quick beside its option."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=Path(os.environ.get("FRESHET_MOVIETWEETINGS", DATA)),
        help="MovieTweetings' folder (or the environment's FRESHET_MOVIETWEETINGS)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the results here")
    return parser.parse_args()
