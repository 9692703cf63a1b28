"""What an encoder gives for captions: bands, initial values, noise, and its settings."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels.langevin import TokenRows, gaussian
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.tokens import caption_key
from tests.encoder.brute_force import scores
from tests.encoder.tiny_encoder import CAPTIONS, make
from tests.encoder.tiny_models import WORDS, build, tokenizer


def test_one_float32_tensor_a_caption_in_the_callers_order() -> None:
    encoder = make(dtype="bfloat16")
    encodings = encoder(CAPTIONS)
    assert [tuple(encoding.shape) for encoding in encodings] == [(9, 48), (2, 48), (11, 48)]
    assert {encoding.dtype for encoding in encodings} == {torch.float32}
    assert encoder.hidden_size == 48
    assert encoder([]) == []


def test_encodings_may_be_trained_on() -> None:
    layer = torch.nn.Linear(48, 4)
    layer(make()(["a red circle"])[0]).sum().backward()
    assert layer.weight.grad is not None


def test_equal_captions_are_encoded_once() -> None:
    seen: list[int] = []
    encoder = make()
    handle = encoder.llm.backbone.register_forward_hook(lambda module, args, output: seen.append(output[0].shape[0]))
    decomposed, composed = "cafe\u0301", "caf\u00e9"
    encodings = encoder(["a red circle", decomposed, "a red circle", composed])
    handle.remove()
    assert sum(seen) == 2
    assert encodings[0] is encodings[2]
    assert encodings[1] is encodings[3]


def test_progress_counts_every_caption() -> None:
    seen: list[tuple[int, int]] = []
    make(token_budget=12)([*CAPTIONS, *CAPTIONS], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (4, 6), (6, 6)]


@pytest.mark.parametrize("word_path", ["block", "isolated"])
def test_bands_sum_to_the_one_encoding(word_path: str, tmp_path) -> None:
    model = build("phi")
    whole, banded = (
        Encoder(
            model,
            tokenizer(),
            EncoderConfig(dtype="float32", g=[0.5, 1.0, 2.0], bands=bands, word_path=word_path),
            cache_folder=tmp_path,
        )(CAPTIONS)
        for bands in (1, 3)
    )
    for one, other in zip(whole, banded, strict=True):
        assert other.shape == (3, *one.shape)
        torch.testing.assert_close(other.sum(0), one, rtol=1e-5, atol=1e-5)


def test_a_band_holds_its_own_blocks() -> None:
    encoder = make(bands=2, initial="zeros", dtype="float64")
    encoding = encoder(CAPTIONS[:1])[0]
    ids = [*encoder.tokenizer(CAPTIONS[0])["input_ids"], 1]
    _, sentence, word = scores(encoder.llm.model, ids, "block")
    difference = sentence - word
    torch.testing.assert_close(encoding, torch.stack([difference[:2].sum(0), difference[2]]), rtol=1e-6, atol=1e-6)


def test_initial_values() -> None:
    zeros, embedding, noise = (make(initial=initial)(CAPTIONS)[0] for initial in ("zeros", "embedding", "noise"))
    encoder = make()
    ids = torch.tensor([*encoder.tokenizer(CAPTIONS[0])["input_ids"], 1])
    torch.testing.assert_close(embedding - zeros, encoder.llm.backbone.get_input_embeddings()(ids).detach())
    torch.testing.assert_close(noise - zeros, eps(CAPTIONS[0], block=0), rtol=1e-5, atol=1e-5)


def test_cached_noise_is_that_of_algorithm_1() -> None:
    quiet = make(initial="zeros")(CAPTIONS)
    loud = make(initial="zeros", noise="cached", h=[0.5, 0.02, 0.0], seed=9)(CAPTIONS)
    for caption, one, other in zip(CAPTIONS, quiet, loud, strict=True):
        expected = 1.0 * eps(caption, seed=9, block=3) + 0.2 * eps(caption, seed=9, block=2)
        torch.testing.assert_close(other - one, expected, rtol=1e-5, atol=1e-5)


def test_fresh_noise_is_left_to_its_users() -> None:
    encoder = make(noise="fresh", h=[0.5, 0.5, 2.0], bands=2, initial="zeros")
    assert encoder.noise_std == (2.0**0.5, 2.0)
    quiet = make(bands=2, initial="zeros")
    assert torch.equal(encoder(CAPTIONS)[0], quiet(CAPTIONS)[0])
    assert quiet.noise_std == (0.0, 0.0)


def eps(caption: str, *, seed: int = 0, block: int) -> torch.Tensor:
    count = len(caption.split()) + 1
    rows = TokenRows(
        position=torch.arange(count, dtype=torch.int32), caption=torch.full((count,), caption_key(caption))
    )
    return gaussian(rows, 48, seed, block)


def test_threads_that_share_a_model_take_turns() -> None:
    encoder = make(token_budget=12)
    captions = [f"{CAPTIONS[i % 3]} {WORDS[i % 19]}" for i in range(40)]
    expected = encoder(captions)
    with ThreadPoolExecutor(4) as pool:
        for encodings in pool.map(lambda _: encoder(captions), range(8)):
            assert all(torch.equal(one, other) for one, other in zip(encodings, expected, strict=True))


def test_wrong_settings_of_the_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="weights are torch.float32; expected torch.bfloat16"):
        Encoder(build("llama"), tokenizer(), EncoderConfig(dtype="bfloat16"))
    with pytest.raises(ValueError, match="bands is 4; expected at most 3"):
        make(bands=4)
    with pytest.raises(ValueError, match="a schedule of 2 numbers for an LLM of 3 blocks"):
        make(g=[1.0, 2.0])


def test_a_model_keeps_its_own_dtype_where_none_is_asked_for() -> None:
    for dtype in ("float32", "bfloat16", "float64"):
        encoder = Encoder(build("llama", getattr(torch, dtype)), tokenizer())
        assert encoder.config.dtype == encoder.describe()["dtype"] == dtype
    quantised = build("llama").to(torch.float8_e4m3fn)
    with pytest.raises(
        ValueError, match="weights are torch.float8_e4m3fn; expected float32, bfloat16, float16, float64"
    ):
        Encoder(quantised, tokenizer())


@pytest.mark.process
def test_it_imports_with_torch_triton_and_transformers_alone() -> None:
    heavy = ("diffusers", "deepspeed", "zarr", "deltalake", "pyarrow", "prefect", "mlflow", "pydantic", "storage")
    code = f"import sys, llmdiff.encoder; found = set({heavy}) & set(sys.modules); print(found); sys.exit(bool(found))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
