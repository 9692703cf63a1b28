"""The pipeline and the adapter in other pipelines, on tiny random parts and a tiny random LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from torch import nn

from llmdiff import LLMDiffPipeline, load_adapter, unload_adapter
from llmdiff.encoder import Encoder, EncoderConfig
from tests.adapter import tiny
from tests.adapter.tiny import PROMPTS, Folders, draw, quiet, set_scale
from tests.encoder import tiny_models as models
from tests.examples import some


@pytest.fixture(scope="module", params=["on-llm", "on-both", "control"])
def pipe(request: pytest.FixtureRequest, folders: dict[str, Path]) -> LLMDiffPipeline:
    return quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders[request.param], folders["llama"]))


def test_called_like_stable_diffusion(pipe: LLMDiffPipeline) -> None:
    assert isinstance(pipe, StableDiffusionPipeline)
    images = draw(pipe, PROMPTS, negative_prompt=["a blue square", "below"], num_images_per_prompt=2)
    assert images.shape == (4, 64, 64, 3)
    assert np.isfinite(images).all()
    pictures = pipe(PROMPTS[0], num_inference_steps=1).images
    assert pictures[0].size == (64, 64)


def test_same_seed_same_picture_whatever_the_batch(pipe: LLMDiffPipeline) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    both = draw(pipe, PROMPTS, generator=generators)
    np.testing.assert_allclose(both[0], draw(pipe, PROMPTS[0], seed=5)[0], atol=1e-4)
    np.testing.assert_allclose(both[1], draw(pipe, PROMPTS[1], seed=6)[0], atol=1e-4)


def test_images_per_prompt_are_of_their_prompt(pipe: LLMDiffPipeline) -> None:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(4, -1, -1, -1)
    images = draw(pipe, PROMPTS, num_images_per_prompt=2, latents=latents)
    np.testing.assert_allclose(images[0], images[1], atol=1e-4)
    np.testing.assert_allclose(images[2], images[3], atol=1e-4)
    assert np.abs(images[0] - images[2]).max() > 1e-4


def test_negative_prompts_matter_and_default_to_the_empty_caption(pipe: LLMDiffPipeline) -> None:
    plain = draw(pipe)
    assert np.array_equal(draw(pipe, negative_prompt=""), plain)
    assert not np.array_equal(draw(pipe, negative_prompt="a large blue triangle"), plain)
    assert not np.array_equal(draw(pipe, guidance_scale=1.0), plain)


def test_prompt_embeddings_go_round(pipe: LLMDiffPipeline) -> None:
    given, without = pipe.encode_prompt(PROMPTS, pipe.device, 1, True)
    images = draw(pipe, None, prompt_embeds=given, negative_prompt_embeds=without)
    np.testing.assert_allclose(images, draw(pipe, PROMPTS), atol=1e-5)


def test_callbacks_and_other_schedulers(pipe: LLMDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DPMSolverMultistepScheduler

    seen = []

    def stop_guidance(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["prompt_embeds"].shape[0])
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1] if step == 0 else tensors["prompt_embeds"]}

    monkeypatch.setattr(pipe, "scheduler", DPMSolverMultistepScheduler.from_config(pipe.scheduler.config))
    draw(
        pipe,
        num_inference_steps=3,
        callback_on_step_end=stop_guidance,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )
    assert seen == [2, 1, 1]


def test_scale_zero_with_clip_context_is_the_base(folders: dict[str, Path]) -> None:
    base = quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))
    pipe = quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders["on-both"], folders["llama"]))
    assert np.array_equal(draw(pipe, PROMPTS, adapter_scale=0.0), draw(base, PROMPTS))
    assert not np.array_equal(draw(pipe, PROMPTS), draw(base, PROMPTS))


def test_adapter_scale_lasts_one_call(pipe: LLMDiffPipeline) -> None:
    whole = draw(pipe)
    assert not np.array_equal(draw(pipe, adapter_scale=0.3), whole)
    assert np.array_equal(draw(pipe), whole)


def test_unloading_gives_the_pipeline_back(folders: dict[str, Path]) -> None:
    base = quiet(StableDiffusionPipeline.from_pretrained(folders["base"]))
    before, attributes = draw(base), set(vars(base))
    load_adapter(base, folders["on-llm"], folders["llama"])
    assert not np.array_equal(draw(base), before)
    with pytest.raises(ValueError, match="has an adapter already"):
        load_adapter(base, folders["on-llm"], folders["llama"])
    unload_adapter(base)
    assert np.array_equal(draw(base), before)
    assert set(vars(base)) == attributes
    with pytest.raises(ValueError, match="has no adapter"):
        unload_adapter(base)


@pytest.mark.parametrize("kind", [StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline])
def test_in_other_pipelines(folders: dict[str, Path], kind: Any) -> None:
    pipe = quiet(
        kind(**StableDiffusionPipeline.from_pretrained(folders["base"]).components, requires_safety_checker=False)
    )
    picture = {"image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)), "strength": 1.0}
    if kind is StableDiffusionInpaintPipeline:
        picture["mask_image"] = torch.ones(1, 1, 64, 64)
    before = draw(pipe, **picture)
    load_adapter(pipe, folders["on-llm"], folders["llama"])
    assert draw(pipe, **picture).shape == before.shape
    assert not np.array_equal(draw(pipe, **picture), before)
    unload_adapter(pipe)
    assert np.array_equal(draw(pipe, **picture), before)


def test_bfloat16(folders: dict[str, Path]) -> None:
    options = {"dtype": torch.bfloat16}
    for adapter in ("on-llm", "control"):
        pipe = quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders[adapter], folders["llama"], **options))
        assert np.isfinite(draw(pipe, PROMPTS)).all()


def test_another_llm_is_refused_with_both_named(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"expected .*LlamaForCausalLM.*f1.*found .*PhiForCausalLM"):
        LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"], folders["phi"])


def test_another_fingerprint_is_refused_with_both_named(folders: dict[str, Path]) -> None:
    other = Encoder.from_pretrained(folders["llama"], EncoderConfig(dtype="float32", max_tokens=21))
    with pytest.raises(ValueError, match="max_tokens: expected 20 .*f1.* found 21"):
        LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"], other)


def test_another_width_is_refused_with_both_named(folders: dict[str, Path], tmp_path: Path) -> None:
    models.scramble(models.llama(hidden_size=32)).save_pretrained(tmp_path)
    models.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="width 48 .*tiny-llama.* is 32"):
        LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"], tmp_path)


def test_a_missing_llm_or_adapter_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny-llama"):
        LLMDiffPipeline.from_pretrained(folders["base"], folders["on-llm"])
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        LLMDiffPipeline.from_pretrained(folders["base"], tmp_path / "none", folders["llama"])


def test_wrong_number_of_negative_prompts_is_named(pipe: LLMDiffPipeline) -> None:
    with pytest.raises(ValueError, match="expected 2 negative prompts"):
        pipe.encode_prompt(PROMPTS, pipe.device, 1, True, ["one"])


SCHEDULERS = [
    ("DDIMScheduler", {}),
    ("DDPMScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LCMScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("TCDScheduler", {}),
    ("UniPCMultistepScheduler", {}),
]


@pytest.fixture(scope="module")
def pair(folders: Folders) -> tuple[Any, Any]:
    """A base, and the same with an adapter."""
    return (
        quiet(StableDiffusionPipeline.from_pretrained(folders["base"])),
        quiet(LLMDiffPipeline.from_pretrained(folders["base"], folders["on-both"], folders["llama"])),
    )


@pytest.mark.parametrize(("name", "options"), some(SCHEDULERS))
def test_every_scheduler(pair: tuple[Any, Any], name: str, options: dict[str, Any]) -> None:
    base, pipe = pair
    for one in pair:
        one.scheduler = getattr(diffusers, name).from_config(tiny.schedule().config, **options)
    settings = {"num_inference_steps": 4, "output_type": "latent"}
    drawn, expected = draw(pipe, **settings), draw(base, **settings)
    assert drawn.isfinite().all()
    assert not torch.equal(drawn, expected)
    assert torch.equal(draw(pipe, adapter_scale=0.0, **settings), expected)


@pytest.mark.parametrize("adapter", ["on-xl", "on-xl-llm"])
def test_in_sdxl(folders: Folders, adapter: str) -> None:
    pipe = tiny.xl_pipeline()
    before = draw(pipe, PROMPTS)
    load_adapter(pipe, folders[adapter], folders["llama"])
    whole = draw(pipe, PROMPTS, negative_prompt="a square", num_images_per_prompt=2)
    assert whole.shape == (4, 64, 64, 3)
    assert not np.array_equal(draw(pipe, PROMPTS), before)
    assert not np.array_equal(
        draw(pipe, PROMPTS, prompt_2=["a square", "a"]), draw(pipe, PROMPTS)
    )  # pooled, the base's own
    given = pipe.encode_prompt(PROMPTS)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    np.testing.assert_allclose(draw(pipe, None, **dict(zip(names, given, strict=True))), draw(pipe, PROMPTS), atol=1e-5)
    unload_adapter(pipe)
    assert np.array_equal(draw(pipe, PROMPTS), before)


@pytest.mark.parametrize("force_zeros", [True, False])
@pytest.mark.parametrize("options", [{}, {"negative_prompt": ""}, {"negative_prompt": "a square"}], ids=str)
def test_at_scale_0_sdxl_draws_as_without_the_adapter(
    folders: Folders, force_zeros: bool, options: dict[str, str]
) -> None:
    pipe = tiny.xl_pipeline(force_zeros_for_empty_prompt=force_zeros)
    before = draw(pipe, PROMPTS, **{name: [value] * len(PROMPTS) for name, value in options.items()})
    load_adapter(pipe, folders["on-xl"], folders["llama"])
    set_scale(pipe, 0.0)
    assert np.array_equal(draw(pipe, PROMPTS, **options), before)


def test_another_family_is_refused(folders: Folders) -> None:
    class Other(diffusers.DiffusionPipeline):
        def __init__(self, transformer: nn.Module) -> None:
            super().__init__()
            self.register_modules(transformer=transformer)

    with pytest.raises(ValueError, match="expected a pipeline with a U-Net .* found Other"):
        load_adapter(Other(tiny.vae()), folders["on-llm"], folders["llama"])
