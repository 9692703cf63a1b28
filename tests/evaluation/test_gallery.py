"""Pictures are drawn once, whatever the batch, and a killed process loses at most its batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llmdiff.evaluation import Gallery, Model, Prompt, Sampling, score_model
from tests.adapter import tiny
from tests.python_path import python_path

PROMPTS = [Prompt(text, seed, i) for i, text in enumerate(("a cat", "a dog", "<b>&")) for seed in (0, 1)]
FAST = Sampling(steps=2)


class Loader:
    """Loads the tiny base, and counts how often, and how many pictures it drew."""

    def __init__(self) -> None:
        self.loads = self.drawn = 0

    def __call__(self, sampling: Sampling) -> Any:
        self.loads += 1
        pipe = tiny.quiet(tiny.pipeline())

        def call(texts: list[str], **options: Any) -> Any:
            self.drawn += len(texts)
            return pipe(texts, **options)

        return call


def test_a_second_run_draws_nothing_and_loads_nothing(tmp_path: Path) -> None:
    loader = Loader()
    gallery = Gallery(tmp_path, Model("base", {"base": "x"}, loader), FAST)
    done: list[int] = []
    first = gallery.draw(PROMPTS[:4], 2, done.append)
    assert (loader.loads, loader.drawn, done) == (1, 4, [0, 2, 2])
    assert gallery.draw(PROMPTS[:4], 2, done.append) == first
    assert (loader.loads, loader.drawn, done) == (1, 4, [0, 2, 2, 4])
    gallery.draw(PROMPTS, 2)
    assert loader.drawn == 6
    assert len(set(first)) == 4
    about = Image.open(gallery.path(PROMPTS[-1])).text
    assert about == {
        "prompt": "<b>&",
        "seed": "1",
        "model": "base",
        "steps": "2",
        "guidance": "3.0",
        "dtype": "float32",
    }


def test_pixels_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = Model("base", {}, Loader())
    pictures = [
        [
            np.asarray(Image.open(path), np.int16)
            for path in Gallery(tmp_path / str(size), model, FAST).draw(PROMPTS, size)
        ]
        for size in (1, 4)
    ]
    np.testing.assert_allclose(*pictures, atol=1)  # the order of a sum may differ, the noise may not
    assert np.mean(np.array(pictures[0]) != np.array(pictures[1])) < 1e-3
    assert (pictures[0][0] != pictures[0][1]).any()


def test_whatever_decides_the_pixels_is_in_the_name(tmp_path: Path) -> None:
    model, prompt = Model("base", {"base": "x"}, Loader()), PROMPTS[0]
    galleries = [
        Gallery(tmp_path, model, FAST),
        Gallery(tmp_path, replace(model, identity={"base": "y"}), FAST),
        *(
            Gallery(tmp_path, model, FAST.model_copy(update=change))
            for change in (
                {"steps": 3},
                {"guidance": 4.0},
                {"size": 64},
                {"scheduler": "euler"},
                {"dtype": "float16"},
                {"negative": "b"},
                {"scale": 0.5},
            )
        ),
    ]
    paths = [gallery.path(prompt) for gallery in galleries]
    paths += [galleries[0].path(replace(prompt, seed=7)), galleries[0].path(replace(prompt, text="b"))]
    assert len(set(paths)) == len(paths)
    assert Gallery(tmp_path, replace(model, name="other"), FAST).path(prompt) == paths[0]


def test_sampling_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="steps: expected at least 1, found 0"):
        Sampling(steps=0)
    with pytest.raises(ValueError, match="size: expected a multiple of 8 pixels, found 100"):
        Sampling(size=100)


def test_pixels_that_are_no_numbers(tmp_path: Path) -> None:
    class Broken:
        def __call__(self, texts: list[str], **options: Any) -> Any:
            return type("Output", (), {"images": np.full((len(texts), 8, 8, 3), np.nan)})

    gallery = Gallery(tmp_path, Model("broken", {}, lambda _: Broken()), FAST)
    with pytest.raises(ValueError, match="'a cat': the model drew pixels that are no numbers"):
        gallery.draw(PROMPTS)


def test_a_picture_that_someone_broke_is_named(tmp_path: Path) -> None:
    model = Model("base", {}, Loader())
    path = Gallery(tmp_path, model, FAST).draw(PROMPTS[:1])[0]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path}: expected a picture"):
        score_model(model, PROMPTS[:1], ["facts"], folder=tmp_path, sampling=FAST)


DRAWING = """
import sys, time
from pathlib import Path
from llmdiff.evaluation import Gallery, Model
from tests.evaluation.test_gallery import FAST, PROMPTS, Loader

class Slow(Loader):
    def __call__(self, sampling):
        call = super().__call__(sampling)
        def wait(texts, **options):
            if self.drawn >= 4:
                print("drawn", flush=True)
                time.sleep(600)
            return call(texts, **options)
        return wait

Gallery(Path(sys.argv[1]), Model("base", {}, Slow()), FAST).draw(PROMPTS, 2)
"""


@pytest.mark.process
def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRAWING, str(tmp_path)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": python_path(root)}, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"drawn\n"
        finally:
            child.send_signal(signal.SIGKILL)
    loader = Loader()
    gallery = Gallery(tmp_path, Model("base", {}, loader), FAST)
    assert [gallery.path(prompt).exists() for prompt in PROMPTS] == [True] * 4 + [False] * 2
    gallery.draw(PROMPTS, 2)
    assert loader.drawn == 2
