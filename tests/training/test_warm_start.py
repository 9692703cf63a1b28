"""Training that goes on from a trained adapter's weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmdiff.adapter import LLMAdapter
from llmdiff.diffusion.base import load_unet
from llmdiff.training import TrainConfig
from llmdiff.training.checkpoints.warm_start import load_initial_checkpoint
from llmdiff.training.setup import build_adapter, read_unconditional
from storage import EncodingStore
from tests.adapter import tiny
from tests.training import training_run
from tests.training.training_run import train

pytestmark = pytest.mark.process


@pytest.fixture(scope="session")
def parent(parts: Path) -> Path:
    """A trained adapter, whose averaged weights are not its last ones."""
    config = training_run.config(parts, "parent", steps=4, ema_decay=0.5)
    return train(config) or Path()


def new_adapter(config: TrainConfig) -> tuple[LLMAdapter, torch.nn.Module]:
    store, unet = EncodingStore.open(config.store), load_unet(config.base)
    return build_adapter(config, store, unet, read_unconditional(config, store)), unet


def outputs(adapter: LLMAdapter, unet: torch.nn.Module) -> torch.Tensor:
    """Return the outputs of the adapted U-Net on fixed inputs."""
    generator = torch.Generator().manual_seed(0)
    encodings = torch.randn(2, 5, tiny.HIDDEN, generator=generator)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    adapter.install(unet)
    with torch.no_grad():
        context = adapter.context(encodings, torch.ones(2, 5, dtype=torch.bool))
        found: torch.Tensor = unet(latents, torch.tensor([3, 700]), encoder_hidden_states=context).sample
    adapter.uninstall()
    return found


def test_a_warm_run_begins_as_its_parent_ended(root: Path, parent: Path) -> None:
    adapter, unet = new_adapter(training_run.config(root, start_from=str(parent)))
    cold = outputs(adapter, unet)
    load_initial_checkpoint(adapter, str(parent), unet)
    expected = outputs(LLMAdapter.load(parent, unet), unet)
    assert torch.equal(outputs(adapter, unet), expected)
    assert not torch.allclose(cold, expected)


def test_its_average_and_its_weights_go_on_from_there_with_a_fresh_schedule(root: Path, parent: Path) -> None:
    config = training_run.config(
        root, start_from=str(parent), steps=1, learning_rate=1e-9, parent="models:/llmdiff-adapter/1"
    )
    assert train(config) is not None
    before = load_file(parent / "adapter.safetensors")
    for name in ("adapter", "adapter-raw"):
        after = load_file(Path(config.output) / name / "adapter.safetensors")
        assert all(torch.equal(before[key], after[key]) for key in before if before[key].ndim >= 2)
    assert training_run.rows(config)[0]["learning_rate"] == pytest.approx(1e-9 / config.warmup)
    told = json.loads((Path(config.output) / "adapter" / "adapter_config.json").read_text())["training"]
    assert (told["start_from"], told["parent"]) == (str(parent), "models:/llmdiff-adapter/1")


def test_resumed_it_goes_on_from_its_own_checkpoint_and_needs_the_parent_no_more(root: Path, parent: Path) -> None:
    copy = shutil.copytree(parent, root / "copy")
    whole = training_run.config(root, "whole", start_from=str(copy), steps=4, checkpoint_every=2)
    train(whole)
    halved = whole.model_copy(update={"output": str(root / "halved")})
    shutil.copytree(root / "whole", root / "halved")
    for late in ("adapter", "adapter-raw", "checkpoints/step-00000004", "config.json"):
        path = root / "halved" / late
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(copy)
    train(halved)
    one, other = (load_file(Path(run.output) / "adapter" / "adapter.safetensors") for run in (whole, halved))
    assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(ValueError, match=r"began with start_from '.*copy', found None: use another output"):
        train(halved.model_copy(update={"start_from": None}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_fingerprint": "f00"}, "expected encoder_fingerprint '[0-9a-f]+', as the run has, found 'f00'"),
        ({"base_model": "elsewhere"}, "expected the base '.*/base', as the run has, found 'elsewhere'"),
        ({"base_tokens": 3}, "expected base_tokens 0, as the run has, found 3"),
    ],
)
def test_a_parent_of_another_kind_is_refused(root: Path, parent: Path, change: dict[str, object], message: str) -> None:
    other = shutil.copytree(parent, root / "other", ignore=shutil.ignore_patterns("manifest.json"))
    about = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**about, **change}))
    adapter, unet = new_adapter(training_run.config(root))
    with pytest.raises(ValueError, match=message):
        load_initial_checkpoint(adapter, str(other), unet)


def test_bands_and_widths_are_compared(root: Path, parent: Path) -> None:
    training_run.own_store(root, bands=2)
    adapter, unet = new_adapter(training_run.config(root))
    with pytest.raises(ValueError, match="expected encoder_fingerprint '[0-9a-f]+', as the run has, found"):
        load_initial_checkpoint(adapter, str(parent), unet)
    adapter.config = adapter.config.model_copy(
        update={"encoder_fingerprint": LLMAdapter.load(parent, unet).config.encoder_fingerprint}
    )
    with pytest.raises(ValueError, match="expected bands 2, as the run has, found 1"):
        load_initial_checkpoint(adapter, str(parent), unet)


def test_a_copy_of_the_base_is_the_same_base(root: Path, parent: Path) -> None:
    moved = root / "moved"
    shutil.copytree((root / "base").resolve(), moved)
    adapter, unet = new_adapter(training_run.config(root, base=str(moved)))
    load_initial_checkpoint(adapter, str(parent), unet)
