from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmdiff.data.encode import Recipe, ShardReport, as_bits, encode_captions, encode_shard, prepare
from llmdiff.data.sources import open_source
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore, caption_hash
from tests.adapter import tiny
from tests.data.pictures import encoded, picture, write_parquet
from tests.encoder import tiny_models

SIZE = 64
PNG = [encoded(picture(seed=seed)) for seed in range(4)]
CAPTIONS = ["a red circle", "a blue square", "the small green triangle above a red circle", "a red circle"]
ROWS = list(zip(PNG, CAPTIONS, strict=True))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_models.build("llama"), tiny_models.tokenizer(), EncoderConfig(dtype="float32"))


@pytest.fixture(scope="module")
def latent_encoder() -> LatentEncoder:
    return LatentEncoder(tiny.vae())


@pytest.fixture
def store(tmp_path: Path) -> EncodingStore:
    return EncodingStore.create(tmp_path / "store")


@pytest.fixture
def recipe(store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder) -> Recipe:
    return prepare(store, encoder, latent_encoder, SIZE)


def encode(store: EncodingStore, data: Path, recipe: Recipe) -> ShardReport:
    (shard,) = open_source(data)
    report = encode_shard(store, shard, recipe)
    assert report.rows == report.known + report.samples + report.rejected.total()
    return report


def test_what_comes_out_is_what_the_models_say(
    store: EncodingStore, recipe: Recipe, encoder: Encoder, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    report = encode(store, write_parquet(tmp_path / "a.parquet", ROWS), recipe)
    assert (report.samples, report.captions, report.latents, report.known) == (4, 3, 4, 0)
    for caption in CAPTIONS:
        bits = store.encoding(recipe.fingerprint, caption_hash(caption))
        np.testing.assert_array_equal(bits, as_bits(encoder([caption])[0]))
    samples = store.samples(recipe.fingerprint).to_pylist()
    assert [sample["caption"] for sample in samples] == CAPTIONS
    assert samples[0]["crop"] == [40, 30, 10, 0]  # 40x30 becomes 85x64, of which the centre is kept
    assert not store.verify()


def test_the_empty_caption_is_always_there(store: EncodingStore, recipe: Recipe, encoder: Encoder) -> None:
    np.testing.assert_array_equal(store.encoding(recipe.fingerprint, caption_hash("")), as_bits(encoder([""])[0]))
    assert len(store.samples(recipe.fingerprint)) == 0


def test_a_second_run_encodes_nothing_even_under_another_name(
    store: EncodingStore, recipe: Recipe, tmp_path: Path
) -> None:
    rows = [*ROWS, (b"junk", "a broken picture")]
    encode(store, write_parquet(tmp_path / "a.parquet", rows), recipe)
    version = store.version
    again = encode(store, write_parquet(tmp_path / "b" / "moved.parquet", rows), recipe)
    assert (again.known, again.samples, again.captions, again.latents, again.rejected.total()) == (5, 0, 0, 0, 0)
    assert store.version == version


def test_a_changed_shard_encodes_only_what_is_new(store: EncodingStore, recipe: Recipe, tmp_path: Path) -> None:
    encode(store, write_parquet(tmp_path / "a.parquet", ROWS), recipe)
    more = [*ROWS, (encoded(picture(seed=9)), "a large purple cross"), (PNG[0], "the other caption")]
    report = encode(store, write_parquet(tmp_path / "a.parquet", more), recipe)
    assert (report.samples, report.captions, report.latents) == (6, 2, 1)


def test_another_encoder_stands_beside_the_first_and_shares_the_latents(
    store: EncodingStore, recipe: Recipe, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    data = write_parquet(tmp_path / "a.parquet", ROWS)
    encode(store, data, recipe)
    tokenizer = tiny.clip_tokenizer()
    control = prepare(store, BaseTextEncoder(tiny.text_encoder(tokenizer), tokenizer), latent_encoder, SIZE)
    report = encode(store, data, control)
    assert (report.samples, report.captions, report.latents) == (4, 3, 0)
    assert control.fingerprint != recipe.fingerprint
    assert store.encoding(control.fingerprint, caption_hash(CAPTIONS[0])).shape == (tiny.TOKENS, tiny.WIDTH)


def test_bad_rows_become_rejects_with_file_row_and_reason(store: EncodingStore, recipe: Recipe, tmp_path: Path) -> None:
    cut = encoded(picture(200, 200), "JPEG")[:900]
    rows = [(PNG[0], "fine"), (cut, "a broken JPEG"), (PNG[1], ""), (PNG[2], None), (None, "no picture")]
    report = encode(store, write_parquet(tmp_path / "a.parquet", rows), recipe)
    assert report.samples == 1
    assert report.captions == 1  # none for a row that is refused
    assert [line.split(": ")[:2] for line in report.examples] == [
        ["a.parquet row 1", "broken_image"],
        ["a.parquet row 2", "empty_caption"],
        ["a.parquet row 3", "no_caption"],
        ["a.parquet row 4", "no_image"],
    ]
    again = encode(store, tmp_path / "a.parquet", recipe)
    assert (again.known, again.known_bad, again.examples) == (5, 4, [])
    found = {row["row"]: (row["source"], row["reason"]) for row in store.rejects().to_pylist()}
    reasons = {1: "broken_image", 2: "empty_caption", 3: "no_caption", 4: "no_image"}
    assert found == {row: ("a.parquet", reason) for row, reason in reasons.items()}


def test_a_caption_with_a_non_finite_encoding_is_refused_and_the_rest_go_on(
    store: EncodingStore, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    model = tiny_models.build("llama")
    tokenizer = tiny_models.tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("blue")] = torch.inf
    recipe = prepare(store, Encoder(model, tokenizer, EncoderConfig(dtype="float32")), latent_encoder, SIZE)
    report = encode(store, write_parquet(tmp_path / "a.parquet", ROWS), recipe)
    assert (report.samples, report.captions, dict(report.rejected)) == (3, 2, {"not_finite": 1})
    (reject,) = store.rejects().to_pylist()
    assert "a blue square" in reject["detail"]


def test_a_shard_that_breaks_off_leaves_nothing(store: EncodingStore, recipe: Recipe, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "a.parquet", ROWS * 150, row_group_size=300)
    whole = data.read_bytes()
    half, end = len(whole) // 2, len(whole) * 2 // 3  # in the second row group: the first is encoded before it shows
    data.write_bytes(whole[:half] + bytes(end - half) + whole[end:])
    before = store.version, sorted(path.name for path in (store.path / "shards").iterdir())
    with pytest.raises(ValueError, match="a.parquet: damaged Parquet file"):
        encode(store, data, recipe)
    assert (store.version, sorted(path.name for path in (store.path / "shards").iterdir())) == before
    data.write_bytes(whole)
    assert encode(store, data, recipe).samples == 600


def test_latents_of_another_size_are_refused(
    store: EncodingStore, recipe: Recipe, encoder: Encoder, latent_encoder: LatentEncoder
) -> None:
    with pytest.raises(ValueError, match="expected size 64, found 128: use another store"):
        prepare(store, encoder, latent_encoder, 128)
    for size in (60, 0, -64):
        with pytest.raises(ValueError, match=f"expected a multiple of 8 pixels, found {size}"):
            prepare(store, encoder, latent_encoder, size)


def test_captions_without_pictures(store: EncodingStore, recipe: Recipe, encoder: Encoder) -> None:
    assert encode_captions(store, recipe.fingerprint, encoder, ["a red circle", "a red circle", ""]) == 1
    assert encode_captions(store, recipe.fingerprint, encoder, ["a red circle"]) == 0
    assert store.encoding(recipe.fingerprint, caption_hash("a red circle")).ndim == 2


def test_bands_lie_side_by_side() -> None:
    encoding = torch.arange(24.0).reshape(2, 3, 4)  # (band, token, hidden)
    bits = torch.from_numpy(as_bits(encoding).copy()).view(torch.bfloat16).float()
    torch.testing.assert_close(bits, torch.cat([encoding[0], encoding[1]], dim=1))


def test_progress_counts_every_row(store: EncodingStore, recipe: Recipe, tmp_path: Path) -> None:
    (shard,) = open_source(write_parquet(tmp_path / "a.parquet", [*ROWS, (b"junk", "x")]))
    for _ in range(2):
        seen: list[int] = []
        encode_shard(store, shard, recipe, seen.append)
        assert sum(seen) == 5
