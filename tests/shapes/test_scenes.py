"""Scenes, captions and shards of the synthetic shapes benchmark."""

import json
import re
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from llmdiff.shapes.captions import NO_THING, WORDINGS, answers, caption, facts
from llmdiff.shapes.pretrain.llm import restating
from llmdiff.shapes.scene import COLOURS, INVERSE, SHAPES, SIDE, Scene, Thing, is_held_out, relation_holds, sample_scene
from llmdiff.shapes.shards import random_scene, write_shards


@pytest.mark.parametrize("count", [1, 2, 3])
def test_scene_holds_what_it_states(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(100):
        scene = sample_scene(rng, count)
        assert len({thing.kind for thing in scene.things}) == count
        for thing in scene.things:
            assert thing.radius < thing.x < SIDE - thing.radius
            assert thing.radius < thing.y < SIDE - thing.radius
        for a, relation, b in zip(scene.things, scene.relations, scene.things[1:], strict=False):
            assert relation_holds(relation, a, b)
            assert relation_holds(INVERSE[relation], b, a)
            assert not any(relation_holds(other, a, b) for other in INVERSE if other != relation)


def test_held_out_pairs_are_in_no_training_scene() -> None:
    kinds = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    held_out = [pair for pair in combinations(kinds, 2) if is_held_out(*pair)]
    assert 10 <= len(held_out) <= 40
    assert all(is_held_out(b, a) for a, b in held_out)
    rng = np.random.default_rng(0)
    assert not any(random_scene(rng).held_out for _ in range(500))
    assert all(sample_scene(rng, 2, held_out=True).held_out for _ in range(20))


def test_every_wording_names_every_thing() -> None:
    rng = np.random.default_rng(1)
    for wording in WORDINGS:
        for count in (1, 2, 3):
            for _ in range(25):
                scene = sample_scene(rng, count)
                words = caption(scene, wording, rng).split()
                for thing in scene.things:
                    assert {thing.colour, thing.shape, thing.size} <= set(words)


def test_wordings_are_disjoint() -> None:
    forms = [{form for group in wording.values() for form in group} for wording in WORDINGS.values()]
    assert all(not (a & b) for a, b in combinations(forms, 2))


def test_facts_name_one_thing_each() -> None:
    rng = np.random.default_rng(2)
    for _ in range(100):
        scene = sample_scene(rng, 3)
        for sentence in facts(scene, rng):
            described = re.match(r"the (\w+) thing is", sentence)
            if described and described[1] in COLOURS:
                assert sum(thing.colour == described[1] for thing in scene.things) == 1


def test_parquet_shards_depend_on_the_seed_alone(tmp_path) -> None:
    first = write_shards(tmp_path / "a", 30, seed=3, rows_per_shard=20)
    again = write_shards(tmp_path / "b", 30, seed=3, rows_per_shard=20)
    assert [path.name for path in first] == ["shapes-00000-of-00002.parquet", "shapes-00001-of-00002.parquet"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    rows = pq.read_table(first[1]).to_pylist()
    assert len(rows) == 10
    assert rows[0]["image"]["bytes"].startswith(b"\x89PNG")
    assert rows[0]["text"]


def test_imagefolder_shards(tmp_path) -> None:
    (folder,) = write_shards(tmp_path, 5, layout="imagefolder")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"{i:06d}.png" for i in range(5)]
    assert all((folder / line["file_name"]).is_file() and line["text"] for line in lines)


def test_answers_say_where_each_thing_is() -> None:
    scene = Scene((Thing("red", "circle", "small"), Thing("blue", "cross", "large")), ("right of",))
    assert answers(scene) == ["left large blue cross", "right small red circle", "no no no no"]
    rng = np.random.default_rng(3)
    for count in (1, 2, 3):
        for scene in (sample_scene(rng, count) for _ in range(30)):
            told = answers(scene)
            assert {len(answer.split()) for answer in told} == {4}
            kinds = [" ".join(answer.split()[2:]) for answer in told if answer != NO_THING]
            assert sorted(kinds) == sorted(thing.kind for thing in scene.things)


def test_only_the_questions_tell_a_bottlenecked_document_what_the_caption_said() -> None:
    end, first, pad = 0, 7, 1
    ids = torch.tensor([[5, 6, first, 8, 9, end, 5, 6, end, pad]])
    mask, restated = restating(ids, ids != pad, torch.tensor([True]))
    assert restated[0].nonzero().flatten().tolist() == [6, 7, 8]
    assert mask[0, 0, 7].nonzero().flatten().tolist() == [2, 3, 4, 5, 6, 7]
    assert mask[0, 0, 4].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    free, _ = restating(ids, ids != pad, torch.tensor([False]))
    assert torch.equal(free[0, 0], torch.ones(10, 10, dtype=torch.bool).tril())
