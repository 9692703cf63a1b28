"""Scores are those of transformers' own forward passes and of torchmetrics, on the same weights and pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal import clip_image_quality_assessment, clip_score
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from llmdiff.evaluation import Prompt, held_out_prompts, load_metric
from llmdiff.evaluation.embed import load_embedder
from llmdiff.shapes.render import render_scene
from tests.evaluation import metric_models
from tests.evaluation.metric_models import LENGTH, TEXTS

PROMPTS = [Prompt(text, 0, i) for i, text in enumerate(TEXTS)]
LONG = Prompt("a circle and " * LENGTH, 0, 9)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("metrics")
    kinds = (metric_models.clip, metric_models.siglip, metric_models.siglip2, metric_models.vision)
    return {kind.__name__: kind(root / kind.__name__) for kind in kinds}


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_siglip_scores_are_those_of_the_models_own_forward_pass(folders: dict[str, Path], name: str) -> None:
    images = metric_models.pictures(4)
    found = load_metric(f"{name}={folders[name]}")(images, PROMPTS)
    model = AutoModel.from_pretrained(folders[name]).eval()
    tokens = AutoTokenizer.from_pretrained(folders[name])(
        TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    with torch.no_grad():
        out = model(**tokens, **AutoImageProcessor.from_pretrained(folders[name])(images, return_tensors="pt"))
    np.testing.assert_allclose(found[f"{name}_probability"], torch.sigmoid(out.logits_per_image).diag(), rtol=1e-5)
    cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
    np.testing.assert_allclose(found[name], 100 * cosines, rtol=1e-4)
    assert np.ptp(found[name]) > 0.1
    assert list(found) == [name, f"{name}_probability", f"{name}_cut"]


def test_siglip2_reads_lower_case_whatever_its_tokenizer_does(folders: dict[str, Path]) -> None:
    image = metric_models.pictures(1)
    metric = load_metric(f"siglip2={folders['siglip']}")  # a model of one size: SigLIP's class, another tokenizer
    one, other = (metric(image, [Prompt(text, 0, 0)]) for text in ("a RED circle", "a red circle"))
    assert one["siglip2"] == other["siglip2"]


class Before5:
    """A CLIP whose features are tensors, as torchmetrics expects them."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def to(self, device: Any) -> Before5:
        return self

    def get_image_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model.get_image_features(*inputs).pooler_output

    def get_text_features(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model.get_text_features(*inputs).pooler_output


def for_torchmetrics(folder: Path) -> Any:
    """What torchmetrics takes in place of a name: a function that gives model and processor."""
    images, words = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def process(text: Any = None, images_: Any = None, **options: Any) -> Any:
        given = options.pop("images", images_)
        return words(text, **options) if given is None else images(given, return_tensors="pt")

    return lambda: (Before5(AutoModel.from_pretrained(folder).eval()), process)


def tensors(images: list[Any]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]


def test_clip_scores_are_torchmetrics(folders: dict[str, Path]) -> None:
    images = metric_models.pictures(4)
    found = load_metric(f"clip={folders['clip']}")(images, PROMPTS)["clip"]
    theirs = for_torchmetrics(folders["clip"])
    with torch.no_grad():
        expected = [clip_score(image, text, theirs) for image, text in zip(tensors(images), TEXTS, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found.max() > 1


def test_quality_complexity_and_beauty_are_torchmetrics(folders: dict[str, Path]) -> None:
    images = metric_models.pictures(4)
    found = load_metric(f"clip-iqa={folders['clip']}")(images, PROMPTS)
    expected = clip_image_quality_assessment(
        torch.stack(tensors(images)),
        for_torchmetrics(folders["clip"]),  # type: ignore[arg-type]
        prompts=("quality", "complexity", "beautiful"),
    )
    for name, theirs in zip(("quality", "complexity", "beauty"), ("quality", "complexity", "beautiful"), strict=True):
        np.testing.assert_allclose(found[name], expected[theirs], rtol=1e-2)
        assert np.ptp(found[name]) > 1e-3


@pytest.mark.parametrize("name", ["siglip", "siglip2", "clip"])
def test_prompts_that_are_cut_are_known(folders: dict[str, Path], name: str) -> None:
    metric = load_metric(f"{name}={folders[name]}")
    found = metric(metric_models.pictures(2), [Prompt("a", 0, 0), LONG])
    assert found[f"{name}_cut"].tolist() == [False, True]


def test_scores_do_not_depend_on_the_batch(folders: dict[str, Path]) -> None:
    images = metric_models.pictures(4)
    for name in ("siglip", "siglip2", "clip"):
        metric = load_metric(f"{name}={folders[name]}")
        alone = [metric([image], [prompt])[name][0] for image, prompt in zip(images, PROMPTS, strict=True)]
        np.testing.assert_allclose(metric(images, PROMPTS)[name], alone, rtol=1e-4)


def test_facts_are_the_evaluators(folders: dict[str, Path]) -> None:
    from PIL import Image

    prompts = held_out_prompts(2)[::3]
    images = [Image.fromarray(render_scene(prompt.scene)) for prompt in prompts]
    facts = load_metric("facts")
    assert facts(images, prompts)["relation"].tolist() == [1, 1]
    assert facts([images[0].transpose(Image.Transpose.ROTATE_180)] * 2, prompts)["relation"][0] == 0
    with pytest.raises(ValueError, match="expected prompts about scenes of the synthetic shapes benchmark"):
        facts(images, PROMPTS[:2])
    with pytest.raises(ValueError, match="expected pictures of 64 x 64 pixels, found 56 x 48"):
        facts(metric_models.pictures(2), prompts)


def test_metrics_that_cannot_be_used(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected one of facts, siglip, siglip2, clip, clip-iqa, found 'sigclip'"):
        load_metric("sigclip=x")
    with pytest.raises(ValueError, match="cannot be loaded: expected a CLIP or a SigLIP, found a dinov2"):
        load_metric(f"clip={folders['vision']}")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in folders["clip"].glob("*.json"):
        (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"metric model {pickled}: cannot be loaded: .*safetensors"):
        load_metric(f"clip={pickled}")


def test_a_model_that_two_metrics_share_is_loaded_once(folders: dict[str, Path]) -> None:
    one = SimpleNamespace(**vars(load_metric(f"clip={folders['clip']}")))
    assert one.embedder is load_embedder(str(folders["clip"]))
