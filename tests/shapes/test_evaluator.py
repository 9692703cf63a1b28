"""The evaluator is right on true pictures, after the autoencoder too, and says no to everything else."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from llmdiff.shapes import DIFFUSION
from llmdiff.shapes.evaluator import FACTS, facts_that_hold, find_things, score_facts
from llmdiff.shapes.render import render_scene
from llmdiff.shapes.scene import INVERSE, Scene, Thing, sample_scene
from tests.examples import examples


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng = np.random.default_rng(11)
    return [sample_scene(rng, 1 + i % 3, held_out=i % 2 == 1 and i % 3 > 0) for i in range(examples(120))]


def test_every_fact_holds_in_true_pictures(scenes) -> None:
    verdicts = score_facts([render_scene(scene) for scene in scenes], scenes)
    assert all(verdicts[fact].mean() == 1 for fact in FACTS)


def test_finds_sizes_and_centres(scenes) -> None:
    for scene in scenes:
        found = {thing.kind: thing for thing in find_things(render_scene(scene))}
        for thing in scene.things:
            assert found[thing.kind].size == thing.size
            assert abs(found[thing.kind].x - thing.x) < 1
            assert abs(found[thing.kind].y - thing.y) < 1


def test_right_after_the_autoencoder(scenes) -> None:
    vae = AutoencoderKL.from_pretrained(DIFFUSION / "vae")
    x = torch.from_numpy(np.stack([render_scene(scene) for scene in scenes])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        decoded = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in x.split(40)])
    pictures = ((decoded.clamp(-1, 1) + 1) * 127.5 + 0.5).byte().permute(0, 2, 3, 1).numpy()
    verdicts = score_facts(list(pictures), scenes)
    assert all(verdicts[fact].mean() >= 0.97 for fact in FACTS)


RED_CIRCLE = Thing("red", "circle", "small", 16, 32)
BLUE_SQUARE = Thing("blue", "square", "large", 46, 32)
STATED = Scene((RED_CIRCLE, BLUE_SQUARE), ("left of",))


@pytest.mark.parametrize(
    ("drawn", "wrong"),
    [
        ((Thing("red", "square", "small", 16, 32), Thing("blue", "circle", "large", 46, 32)), {"binding", "relation"}),
        ((Thing("red", "circle", "small", 48, 32), Thing("blue", "square", "large", 16, 32)), {"relation"}),
        ((Thing("red", "circle", "small", 32, 12), Thing("blue", "square", "large", 32, 44)), {"relation"}),
        ((Thing("green", "circle", "small", 16, 32), BLUE_SQUARE), {"colour", "binding", "relation"}),
        ((RED_CIRCLE,), set(FACTS)),
        ((RED_CIRCLE, BLUE_SQUARE, Thing("green", "cross", "small", 16, 10)), {"count"}),
        ((), set(FACTS)),
    ],
    ids=["shapes swapped", "sides swapped", "above instead", "other colour", "one missing", "one too many", "empty"],
)
def test_says_no(drawn, wrong) -> None:
    verdict = facts_that_hold(render_scene(Scene(drawn, ())), STATED)
    assert {fact for fact, holds in verdict.items() if not holds} == wrong


def test_says_no_to_noise_and_to_other_scenes(scenes) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert not facts_that_hold(noise, STATED)["binding"]
    others = score_facts([render_scene(scene) for scene in scenes], scenes[1:] + scenes[:1])
    assert others["binding"].mean() < 0.1
    assert others["colour"].mean() < 0.4


def test_inverse_relations_agree() -> None:
    turned = Scene((BLUE_SQUARE, RED_CIRCLE), (INVERSE["left of"],))
    assert all(facts_that_hold(render_scene(STATED), turned).values())
