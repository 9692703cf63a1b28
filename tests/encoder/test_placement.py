"""LLMs that are spread out, offloaded, or compute attention in another way: the same encodings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.inspect import inspect
from llmdiff.encoder.llm.scores import BlockScore
from llmdiff.encoder.sums.langevin import Langevin, NormalisedLangevin
from llmdiff.encoder.sums.running_sum import RunningSum, ragged_rows
from llmdiff.encoder.sums.state_sum import StateSum
from tests.encoder.test_readings import CASES, TOLERANCE, Truth, relative
from tests.encoder.tiny_models import build, tokenizer

CAPTIONS = ["a red circle next to the blue square", "a", "the small green triangle is above a large red square"]
ON_DISK: dict[str, dict[str, Any]] = {
    "all": {"": "disk"},
    "the last blocks": {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "disk",
        "model.norm": "cpu",
        "lm_head": "disk",
    },
}


def on_disk(name: str, where: str) -> dict[str, Any]:
    """A device map; Phi has other names than Llama for a few parts."""
    if name != "phi":
        return ON_DISK[where]
    renamed = {"model.norm": "model.final_layernorm"}
    return {renamed.get(part, part): place for part, place in ON_DISK[where].items()}


def folder_of(name: str, path: Path) -> Path:
    build(name).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("word_path", ["block", "isolated"])
@pytest.mark.parametrize("where", ON_DISK)
@pytest.mark.parametrize("name", ["llama", "llama-bias", "gemma2"])
def test_an_offloaded_llm_encodes_as_one_in_memory(name: str, where: str, word_path: str, tmp_path: Path) -> None:
    """Its weights are there while a part runs, and nowhere else."""
    folder = folder_of(name, tmp_path / "llm")
    config = EncoderConfig(dtype="float32", word_path=word_path)
    whole = Encoder.from_pretrained(folder, config, device="cpu", cache_folder=tmp_path)
    spread = Encoder.from_pretrained(folder, config, device_map=ON_DISK[where], cache_folder=tmp_path)
    assert spread.llm.layers[2].self_attn.o_proj.weight.is_meta
    assert spread.llm.device == torch.device("cpu")
    assert spread.describe() == whole.describe()
    for one, other in zip(spread(CAPTIONS), whole(CAPTIONS), strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()
    found, wanted = (inspect(encoder, CAPTIONS[0]).norms for encoder in (spread, whole))
    assert torch.allclose(found["context"], wanted["context"], rtol=1e-4)


@pytest.mark.parametrize("where", ON_DISK)
@pytest.mark.parametrize("name", ["llama", "phi"])
def test_every_reading_of_an_offloaded_llm_matches_brute_force(name: str, where: str, tmp_path: Path) -> None:
    folder, plain = folder_of(name, tmp_path), build(name)
    truths = [Truth.of(plain, tokenizer(), caption) for caption in CAPTIONS]
    loaded = Encoder.from_pretrained(folder, EncoderConfig(dtype="float32"), device_map=on_disk(name, where))
    for settings in CASES:
        encoder = Encoder(loaded.llm.model, loaded.tokenizer, EncoderConfig(dtype="float32", **settings))
        for encoding, truth in zip(encoder(CAPTIONS), truths, strict=True):
            assert relative(encoding, truth.read(encoder)) < TOLERANCE["float32"], settings


def test_states_of_an_offloaded_llm_are_inspected(tmp_path: Path) -> None:
    folder, config = folder_of("llama", tmp_path), EncoderConfig(dtype="float32", reading="last")
    whole = Encoder.from_pretrained(folder, config, device="cpu")
    spread = Encoder.from_pretrained(folder, config, device_map=ON_DISK["the last blocks"])
    found, wanted = (inspect(encoder, CAPTIONS[0]).norms for encoder in (spread, whole))
    assert torch.allclose(found["state"], wanted["state"], rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "phi"])
def test_auto_on_one_device_is_that_device(name: str, tmp_path: Path) -> None:
    folder, config = folder_of(name, tmp_path), EncoderConfig(dtype="float32")
    whole, spread = Encoder.from_pretrained(folder, config), Encoder.from_pretrained(folder, config, device_map="auto")
    assert spread.describe() == whole.describe()
    assert all(map(torch.equal, spread(CAPTIONS), whole(CAPTIONS)))


class Elsewhere(Tensor):
    """A tensor of another device: all that can be done with it is to bring it over."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.to:
            with torch._C.DisableTorchFunctionSubclass():
                return function(args[0].as_subclass(Tensor), *args[1:], **(kwargs or {}))
        if function not in (torch.isfinite, Tensor.all, Tensor.flatten, Tensor.ndim.__get__):
            raise AssertionError(f"{function} on another device")
        return super().__torch_function__(function, types, args, kwargs or {})


def scores(make: type[Langevin], initial: str) -> Any:
    return partial(make, g=(1.0,), h=(0.0,), bands=1, hidden=8, initial=initial, seed=3)


def states(normalise: bool) -> Any:
    """All three parts of a block's states, in a band each."""
    return partial(StateSum, states={k: (k, 1.0) for k in range(3)}, normalise=normalise, bands=3, hidden=8)


SUMS = {
    **{initial: scores(Langevin, initial) for initial in ("zeros", "embedding", "noise")},
    "score_norm": scores(NormalisedLangevin, "embedding"),
    "layers": states(normalise=False),
    "norm_mean": states(normalise=True),
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", SUMS)
def test_a_sum_takes_from_any_device(name: str, padded: bool) -> None:
    rows = ragged_rows([3, 1] if padded else [3], [5, 6][: 1 + padded], torch.device("cpu"))
    x, plus, also, minus, output, end = torch.randn(6, 1 + padded, 3, 8).unbind()
    found = []
    for place in (lambda tensor: tensor, lambda tensor: tensor.as_subclass(Elsewhere)):
        total: RunningSum = SUMS[name](rows)
        total.start(place(x))
        score = {"plus": place(plus), "also": place(also), "minus": place(minus), "output": place(output)}
        total.fold(BlockScore(index=0, **score))
        total.end(place(end))
        assert total.finite().all()
        found.append(total.c)
    assert type(found[1]) is Tensor
    assert torch.equal(found[0], found[1])


def test_attention_is_chosen(tmp_path: Path) -> None:
    """Another way to the same numbers, so no part of the fingerprint."""
    folder, config = folder_of("llama", tmp_path), EncoderConfig(dtype="float32")
    eager, sdpa = (Encoder.from_pretrained(folder, config, attention=name) for name in ("eager", "sdpa"))
    assert eager.llm.config._attn_implementation == "eager"
    assert sdpa.llm.config._attn_implementation == "sdpa"
    assert eager.describe() == sdpa.describe() == Encoder.from_pretrained(folder, config).describe()
    for one, other in zip(eager(CAPTIONS), sdpa(CAPTIONS), strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


def test_an_attention_that_is_not_to_be_had(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match="'flash_attention_2', and no CUDA device with the package flash-attn is here"):
        Encoder.from_pretrained(tmp_path, attention="flash_attention_2")


def test_a_device_and_a_map(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected device or device_map, found both: cpu and 'auto'"):
        Encoder.from_pretrained(tmp_path, device="cpu", device_map="auto")
