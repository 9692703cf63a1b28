"""What every Python process that the tests start imports first, for `tests/conftest.py` puts this folder on their path.

They import the same packages, which takes a fifth less while garbage is collected seldom: `llmdiff.process.startup`.
"""

import gc

gc.set_threshold(100_000, 50, 100)
