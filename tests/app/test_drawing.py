"""What the page draws: the command's own pictures, one person's beside another's, and none after a stop."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llmdiff.image_files import save_png
from pipelines.app.drawing import BASE, STRIP, StoppedError, draw_columns
from pipelines.app.models import Models
from pipelines.requests.generate import GenerateRequest
from tests.infra.tiny_adapter import make_adapter, make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("app") / "sd")


@pytest.fixture(scope="module")
def adapters(base: Path) -> list[str]:
    return [str(make_adapter(base.parent / str(seed), base, seed)) for seed in (0, 1)]


def asked(adapter: str, seed: int = 3, *prompts: str) -> GenerateRequest:
    return GenerateRequest(prompts=list(prompts) or ["a"], adapter=adapter, seed=seed, steps=3)


def pixels(image: Image.Image) -> list[int]:
    return list(np.asarray(image).ravel())


def test_pictures_are_those_of_generate_and_hold_their_settings(adapters: list[str], tmp_path: Path) -> None:
    from pipelines.flows.generate import draw_into, load_source, resolve_adapter, take_out

    request = asked(adapters[0], 3, "a", "b")
    rows = draw_columns(Models(), request, (BASE, 1.0))
    source = resolve_adapter.fn(adapters[0], None, None)
    pipe = load_source(source, True, request.sampling)
    drawn = {}
    for column, adapted in ((1, True), (0, False)):
        paths = draw_into.fn(tmp_path / str(column), pipe, source, request, adapted=adapted)
        drawn[column] = [Image.open(path) for path in paths]
        if adapted:
            take_out(pipe)
    for i, row in enumerate(rows):
        for column, image in enumerate(row):
            theirs = drawn[column][i]
            assert pixels(image) == pixels(theirs)
            ours = Image.open(save_png(image, tmp_path / "ours.png", image.info))
            assert ours.info == theirs.info
    assert rows[1][1].info["seed"] == "4"


def test_two_at_once_mix_neither_seeds_nor_adapters(adapters: list[str]) -> None:
    requests = [asked(adapters[i % 2], seed=i) for i in range(4)]
    alone = [draw_columns(Models(), request, (BASE, 1.0)) for request in requests]
    shared = Models()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda request: draw_columns(shared, request, (BASE, 1.0)), requests))
    assert [[pixels(image) for image in row] for (row,) in together] == [
        [pixels(image) for image in row] for (row,) in alone
    ]
    assert pixels(alone[0][0][1]) != pixels(alone[2][0][1])  # other seeds
    assert pixels(alone[0][0][1]) != pixels(alone[0][0][0])


def test_a_stop_ends_it_at_the_next_step_and_leaves_the_models_as_they_were(adapters: list[str]) -> None:
    models, stop = Models(), threading.Event()
    before = draw_columns(models, asked(adapters[0]), (BASE, 1.0))
    seen: list[tuple[int, int]] = []

    def show(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 4:  # the first step with the adapter
            stop.set()

    with pytest.raises(StoppedError):
        draw_columns(models, asked(adapters[0]), (BASE, 1.0), show, stop)
    assert seen == [(i, 6) for i in range(1, 5)]
    with pytest.raises(StoppedError):  # stopped while it waited: nothing begins
        draw_columns(models, asked(adapters[0]), (BASE, 1.0), show, stop)
    assert len(seen) == 4
    after = draw_columns(models, asked(adapters[0]), (BASE, 1.0))
    assert [pixels(image) for image in after[0]] == [pixels(image) for image in before[0]]


def test_a_strip_ends_at_the_adapter_as_trained(adapters: list[str]) -> None:
    models = Models()
    ((*strip, last),) = draw_columns(models, asked(adapters[0]), STRIP)
    ((whole,),) = draw_columns(models, asked(adapters[0]), (1.0,))
    assert pixels(last) == pixels(whole)
    assert len({tuple(pixels(image)) for image in (*strip, last)}) == len(STRIP)
    assert [image.info["scale"] for image in strip] == ["0.0", "0.25", "0.5", "0.75"]


def test_an_adapter_that_was_trained_again_is_loaded_again(base: Path, tmp_path: Path) -> None:
    folder, models = make_adapter(tmp_path / "again", base, 0), Models()
    first = draw_columns(models, asked(str(folder)), (1.0,))
    make_adapter(folder, base, 1)
    assert pixels(draw_columns(models, asked(str(folder)), (1.0,))[0][0]) != pixels(first[0][0])


@pytest.mark.parametrize(("prompts", "adapter", "says"), [([], "0", "prompts: expected"), (["a"], "no", "no such")])
def test_what_cannot_be_drawn_is_refused_by_name(base: Path, prompts: list[str], adapter: str, says: str) -> None:
    request = GenerateRequest(prompts=prompts, adapter=str(base.parent / adapter))
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        draw_columns(Models(), request, (1.0,))
