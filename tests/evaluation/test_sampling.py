"""One seed is one picture, whoever draws it, and settings keep the names of pictures that were drawn before."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from infra.tracking.pyfunc_model import AdapterModel
from llmdiff.evaluation import Gallery, Model, evaluate, held_out_prompts
from llmdiff.sampling import SCHEDULERS, Sampling, denoise, draw, noise, prepare, to_images, to_uint8
from tests.adapter import tiny

TEXTS = ["a red circle", "a blue square", "a green ring"]
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return prepare(tiny.pipeline())


def drawn(pipe: Any, sampling: Sampling, batch_size: int = 3, **call: Any) -> np.ndarray:
    return np.concatenate(list(draw(pipe, TEXTS, SEEDS, sampling, batch_size, **call)))


def test_it_draws_what_diffusers_draws(pipe: Any) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "generator": generators}
    negative = ["a square"] * 3
    expected = pipe(TEXTS, output_type="np", negative_prompt=negative, height=32, width=32, **options).images
    found = drawn(pipe, Sampling(steps=2, guidance=4.0, negative="a square", size=32))
    np.testing.assert_array_equal(found, expected)


def test_images_are_those_of_diffusers(pipe: Any) -> None:
    generators = [noise(seed) for seed in SEEDS]
    expected = pipe(TEXTS, num_inference_steps=2, guidance_scale=3.0, generator=generators).images
    for image, one in zip(to_images(drawn(pipe, Sampling(steps=2))), expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(one))


def test_both_roundings_differ_at_halves_alone() -> None:
    halves = np.array([0.0, 0.5, 1.5, 254.5, 255.0], np.float64).reshape(1, 1, 5, 1).repeat(3, -1) / 255
    assert to_uint8(halves)[0, 0, :, 0].tolist() == [0, 1, 2, 255, 255]
    assert np.asarray(to_images(halves)[0])[0, :, 0].tolist() == [0, 0, 2, 254, 255]


def test_gallery_evaluation_and_registry_draw_the_same_picture(pipe: Any, tmp_path: Path) -> None:
    prompts, sampling = held_out_prompts(1, seed=2)[:1], Sampling(steps=2)
    model = Model("base", {}, lambda _: pipe)
    (path,) = Gallery(tmp_path, model, sampling).draw(prompts)
    (values,) = draw(pipe, [prompts[0].text], [prompts[0].seed], sampling)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), to_uint8(values)[0])
    registered = AdapterModel()
    registered.pipe = pipe
    params = {"seed": prompts[0].seed, "steps": 2, "guidance": 3.0}
    (png,) = registered.predict(None, pd.DataFrame({"prompt": [prompts[0].text]}), params).image  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), np.asarray(to_images(values)[0]))


def test_channels_last_draws_the_same(pipe: Any) -> None:
    other = prepare(tiny.pipeline(), channels_last=True)
    for part in (other.unet.conv_in, other.vae.decoder.conv_in):
        assert part.weight.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(drawn(other, Sampling(steps=2)), drawn(pipe, Sampling(steps=2)), atol=1e-5)


def test_latents_are_denoised_as_the_pipeline_does(pipe: Any) -> None:
    side = pipe.unet.config.sample_size
    latents = torch.randn(1, 4, side, side, generator=noise(3))
    given, without = pipe.encode_prompt(TEXTS[0], "cpu", 1, True)
    with torch.no_grad():
        found = denoise(
            pipe.unet, pipe.scheduler, latents, torch.cat([without, given]), Sampling(steps=3, guidance=2.0)
        )
    options = {"num_inference_steps": 3, "guidance_scale": 2.0, "generator": [noise(3)]}
    torch.testing.assert_close(found, pipe(TEXTS[:1], output_type="latent", **options).images)


def test_what_names_a_picture_is_what_it_was() -> None:
    """Names of cached pictures hash this; a setting that came later is in it only where it is set."""
    before = {"steps": 20, "guidance": 3.0, "size": None, "scheduler": None, "dtype": "float32"}
    assert Sampling().key() == before
    assert Sampling(negative="x", scale=0.5).key() == {**before, "negative": "x", "scale": 0.5}
    assert Sampling(torch_compile=True, channels_last=True).key() == before  # which move it by rounding


def test_what_cannot_be_drawn_is_refused(pipe: Any) -> None:
    with pytest.raises(ValueError, match="seeds: expected 3, one a prompt, found 1"):
        next(draw(pipe, TEXTS, [0], Sampling(steps=1)))
    with pytest.raises(ValueError, match="'ddim', 'dpm"):
        Sampling(scheduler="heun")
    assert {Sampling(scheduler=name).scheduler for name in SCHEDULERS} == set(SCHEDULERS)


def test_an_evaluation_passes_every_setting_on(pipe: Any) -> None:
    calls: list[dict[str, Any]] = []

    def recording(texts: list[str], **options: Any) -> Any:
        calls.append(options)
        return pipe(texts, **{name: value for name, value in options.items() if name != "adapter_scale"})

    prompts = held_out_prompts(1, seed=2)
    sampling = Sampling(steps=1, guidance=2.0, size=64, negative="x", scale=0.5)
    assert evaluate(recording, prompts, sampling).pictures.shape == (3, 64, 64, 3)
    (call,) = calls
    assert [generator.initial_seed() for generator in call.pop("generator")] == [prompt.seed for prompt in prompts]
    assert call == {
        "num_inference_steps": 1,
        "guidance_scale": 2.0,
        "height": 64,
        "width": 64,
        "adapter_scale": 0.5,
        "negative_prompt": ["x"] * 3,
        "output_type": "np",
    }
