"""How many scores a second, and how long one takes: beside a no-op application, the learner idle and at work.

    .venv/bin/python benchmarks/serving.py [--quick] [--deep dcn] [--candidates 50] [--json OUT]

What is measured, and how, is in `serving_parts/speed.py`; `serving_parts/load.py` is the load generator.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    from serving_parts.speed import main

    main()
else:
    # A script of this folder has asked for the package of this name, and found this file before it.
    here = Path(__file__).resolve().parent
    path = sys.path[:]
    sys.path[:] = [folder for folder in path if Path(folder).resolve() != here]
    del sys.modules["serving"]
    importlib.import_module("serving")
    sys.path[:] = path
