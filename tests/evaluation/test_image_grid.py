from __future__ import annotations

import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llmdiff.image_files import save_png
from llmdiff.image_grid import image_grid


def test_every_picture_is_on_the_grid_under_its_heading() -> None:
    colours = {
        "a": ["red", "lime"],
        "a prompt that needs more than a line, since it goes on and on": ["blue", "yellow"],
    }
    rows = [(prompt, [Image.new("RGB", (64, 64), name) for name in names]) for prompt, names in colours.items()]
    grid = np.asarray(image_grid(rows, ["base", "adapter"]))
    for names in colours.values():
        for column, name in enumerate(names):
            found = np.argwhere((grid == np.asarray(Image.new("RGB", (1, 1), name))[0, 0]).all(-1))
            assert len(found) == 192 * 192
            assert (found[:, 1] < grid.shape[1] // 2).all() == (column == 0)


def test_a_picture_that_does_not_fit_on_the_disk_leaves_no_file(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="a.png"):
            save_png(noise, tmp_path / "a.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(Image.open(save_png(noise, tmp_path / "a.png")), noise)
