"""The program beside curl and requests, against servers and proxies that others wrote."""

import sys
from pathlib import Path

# `benchmarks` and `support` are found below `tests/`, as pytest and mypy find them.
sys.path.insert(0, str(Path(__file__).parents[1]))
