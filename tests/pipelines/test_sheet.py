from __future__ import annotations

import numpy as np
from PIL import Image

from pipelines.sheet import contact_sheet


def test_every_picture_is_on_the_sheet_under_its_heading() -> None:
    colours = {
        "a": ["red", "lime"],
        "a prompt that needs more than a line, since it goes on and on": ["blue", "yellow"],
    }
    rows = [(prompt, [Image.new("RGB", (64, 64), name) for name in names]) for prompt, names in colours.items()]
    sheet = np.asarray(contact_sheet(rows, ["base", "adapter"]))
    for names in colours.values():
        for column, name in enumerate(names):
            found = np.argwhere((sheet == np.asarray(Image.new("RGB", (1, 1), name))[0, 0]).all(-1))
            assert len(found) == 192 * 192
            assert (found[:, 1] < sheet.shape[1] // 2).all() == (column == 0)
