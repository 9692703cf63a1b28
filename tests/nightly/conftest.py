"""Tests that `make nightly` runs, for they take minutes; `make test` leaves them out."""

from __future__ import annotations

import os

collect_ignore_glob = [] if "LLMDIFF_NIGHTLY" in os.environ else ["test_*.py"]
