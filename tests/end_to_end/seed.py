"""A seed that is new in each run of the tests, and the same in all processes of one run."""

from __future__ import annotations

import os
import random
from typing import Final

SEED: Final = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(10**6)
