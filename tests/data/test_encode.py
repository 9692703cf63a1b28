"""What encoding a shard leaves in a store: rows, rejects, nothing twice, and nothing of what broke off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from llmdiff.data.encode import EncoderSet, ShardReport, as_bits, encode_captions, encode_shard, prepare
from llmdiff.data.sources import open_source
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.diffusion.text import BaseTextEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore, ShardWriter, caption_hash
from storage.maintenance.verify import verify
from tests.adapter import tiny
from tests.data.conftest import SIZE
from tests.data.pictures import encoded, picture, write_parquet
from tests.encoder import tiny_models

PNG = [encoded(picture(seed=seed)) for seed in range(4)]
CAPTIONS = ["a red circle", "a blue square", "the small green triangle above a red circle", "a red circle"]
ROWS = list(zip(PNG, CAPTIONS, strict=True))


def encode(store: EncodingStore, data: Path, encoders: EncoderSet) -> ShardReport:
    (shard,) = open_source(data)
    report = encode_shard(store, shard, encoders)
    assert report.rows == report.known + report.samples + report.rejected.total()
    return report


def test_what_comes_out_is_what_the_models_say(
    store: EncodingStore, encoders: EncoderSet, encoder: Encoder, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    report = encode(store, write_parquet(tmp_path / "a.parquet", ROWS), encoders)
    assert (report.samples, report.captions, report.latents, report.known) == (4, 3, 4, 0)
    for caption in CAPTIONS:
        bits = store.encoding(encoders.fingerprint, caption_hash(caption))
        np.testing.assert_array_equal(bits, as_bits(encoder([caption])[0]))
    samples = store.samples(encoders.fingerprint).to_pylist()
    assert [sample["caption"] for sample in samples] == CAPTIONS
    assert samples[0]["crop"] == [40, 30, 10, 0]  # 40x30 becomes 85x64, of which the centre is kept
    assert not verify(store)


def test_the_empty_caption_is_always_there(store: EncodingStore, encoders: EncoderSet, encoder: Encoder) -> None:
    np.testing.assert_array_equal(store.encoding(encoders.fingerprint, caption_hash("")), as_bits(encoder([""])[0]))
    assert len(store.samples(encoders.fingerprint)) == 0


def test_a_second_run_encodes_nothing_even_under_another_name(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    rows = [*ROWS, (b"junk", "a broken picture")]
    encode(store, write_parquet(tmp_path / "a.parquet", rows), encoders)
    version = store.version
    again = encode(store, write_parquet(tmp_path / "b" / "moved.parquet", rows), encoders)
    assert (again.known, again.samples, again.captions, again.latents, again.rejected.total()) == (5, 0, 0, 0, 0)
    assert store.version == version


def test_a_shard_is_looked_up_on_one_snapshot_and_a_known_one_is_not_read(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard,) = open_source(write_parquet(tmp_path / "a.parquet", ROWS))
    looked, snapshot = [], EncodingStore.snapshot
    monkeypatch.setattr(EncodingStore, "snapshot", lambda store: looked.append(store) or snapshot(store))
    assert encode_shard(store, shard, encoders).samples == 4
    assert len(looked) == 1
    monkeypatch.setattr(type(shard), "rows", None)
    assert encode_shard(store, shard, encoders).known == 4
    assert len(looked) == 2


def test_a_changed_shard_encodes_only_what_is_new(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    encode(store, write_parquet(tmp_path / "a.parquet", ROWS), encoders)
    more = [*ROWS, (encoded(picture(seed=9)), "a large purple cross"), (PNG[0], "the other caption")]
    report = encode(store, write_parquet(tmp_path / "a.parquet", more), encoders)
    assert (report.samples, report.captions, report.latents) == (2, 2, 1)
    assert (report.known, report.repeated) == (4, 4)


def test_another_encoder_stands_beside_the_first_and_shares_the_latents(
    store: EncodingStore, encoders: EncoderSet, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    data = write_parquet(tmp_path / "a.parquet", ROWS)
    encode(store, data, encoders)
    tokenizer = tiny.clip_tokenizer()
    control = prepare(store, BaseTextEncoder(tiny.text_encoder(tokenizer), tokenizer), latent_encoder, SIZE)
    report = encode(store, data, control)
    assert (report.samples, report.captions, report.latents) == (4, 3, 0)
    assert control.fingerprint != encoders.fingerprint
    assert store.encoding(control.fingerprint, caption_hash(CAPTIONS[0])).shape == (tiny.TOKENS, tiny.WIDTH)


def test_a_store_of_sd_1_features_stays_valid(store: EncodingStore) -> None:
    """The literals are what a store of this kind has held from the beginning."""
    tokenizer = tiny.clip_tokenizer()
    model = tiny.text_encoder(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    description = {
        "kind": "base",
        "model": "CLIPTextModel",
        "weights": "7dd6339fd25b845e7da3da94a1330964eea156631531be218784c2faad44de2d",
        "tokenizer": "7e6678c97cc8fe187654663b53acb12913377d33db2d4c207e1c966e4425657d",
        "max_tokens": 12,
        "hidden_size": 32,
        "formula": "last_hidden_state/1",
    }
    assert store.register_fingerprint(description) == "54ff246ab760f6c34aa88a36d0fda4bb"
    with ShardWriter(store, "old", "54ff246ab760f6c34aa88a36d0fda4bb") as writer:
        writer.add_encoding(caption_hash(""), np.ones((12, 32), np.uint16))
    version = store.version
    assert prepare(store, BaseTextEncoder(model, tokenizer)).fingerprint == "54ff246ab760f6c34aa88a36d0fda4bb"
    assert store.version == version
    assert list(store.fingerprints()) == ["54ff246ab760f6c34aa88a36d0fda4bb"]


def test_bad_rows_become_rejects_with_file_row_and_reason(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    cut = encoded(picture(200, 200), "JPEG")[:900]
    rows = [(PNG[0], "fine"), (cut, "a broken JPEG"), (PNG[1], ""), (PNG[2], None), (None, "no picture")]
    report = encode(store, write_parquet(tmp_path / "a.parquet", rows), encoders)
    assert report.samples == 1
    assert report.captions == 1  # none for a row that is refused
    assert [line.split(": ")[:2] for line in report.examples] == [
        ["a.parquet row 1", "truncated_image"],
        ["a.parquet row 2", "empty_caption"],
        ["a.parquet row 3", "no_caption"],
        ["a.parquet row 4", "no_image"],
    ]
    again = encode(store, tmp_path / "a.parquet", encoders)
    assert (again.known, again.known_bad, again.examples) == (5, 4, [])
    found = {row["row"]: (row["source"], row["reason"]) for row in store.rejects().to_pylist()}
    reasons = {1: "truncated_image", 2: "empty_caption", 3: "no_caption", 4: "no_image"}
    assert found == {row: ("a.parquet", reason) for row, reason in reasons.items()}


def test_a_caption_with_a_non_finite_encoding_is_refused_and_the_rest_go_on(
    store: EncodingStore, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    model = tiny_models.build("llama")
    tokenizer = tiny_models.tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("blue")] = torch.inf
    encoders = prepare(store, Encoder(model, tokenizer, EncoderConfig(dtype="float32")), latent_encoder, SIZE)
    report = encode(store, write_parquet(tmp_path / "a.parquet", ROWS), encoders)
    assert (report.samples, report.captions, dict(report.rejected)) == (3, 2, {"not_finite": 1})
    (reject,) = store.rejects().to_pylist()
    assert "caption 'a blue square': non-finite values in the embedding, token 1, channel 0" in reject["detail"]


@pytest.mark.parametrize("word_path", ["block", "isolated"])
def test_a_block_that_is_not_finite_is_named_in_the_reject(
    store: EncodingStore, latent_encoder: LatentEncoder, word_path: str, tmp_path: Path
) -> None:
    """The reject names the last block's MLP, which in a parallel block leaves no trace in the score."""
    encoders = prepare(store, poisoned("phi", word_path, tmp_path), latent_encoder, SIZE)
    report = encode(store, write_parquet(tmp_path / "a.parquet", ROWS), encoders)
    assert (report.samples, dict(report.rejected)) == (3, {"not_finite": 1})
    (reject,) = store.rejects().to_pylist()
    assert reject["row"] == 1
    assert "caption 'a blue square': non-finite values in block 2, token 1, channel 5" in reject["detail"]


def poisoned(name: str, word_path: str, cache: Path, word: str = "blue") -> Encoder:
    """An encoder whose last MLP gives a NaN in channel 5 for one word."""
    model, tokenizer = tiny_models.build(name), tiny_models.tokenizer()
    ids: list[torch.Tensor] = []
    model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: ids.append(kwargs["input_ids"]), with_kwargs=True
    )

    def poison(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        output[ids[-1] == tokenizer.convert_tokens_to_ids(word), 5] = torch.nan

    model.get_decoder().layers[-1].mlp.register_forward_hook(poison)
    return Encoder(model, tokenizer, EncoderConfig(dtype="float32", word_path=word_path), cache_folder=cache)


def test_a_shard_that_breaks_off_leaves_nothing(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "a.parquet", ROWS * 150, row_group_size=300)
    whole = data.read_bytes()
    half, end = len(whole) // 2, len(whole) * 2 // 3  # in the second row group: the first is encoded before it shows
    data.write_bytes(whole[:half] + bytes(end - half) + whole[end:])
    before = store.version, sorted(path.name for path in (store.path / "shards").iterdir())
    with pytest.raises(ValueError, match="a.parquet: damaged Parquet file"):
        encode(store, data, encoders)
    assert (store.version, sorted(path.name for path in (store.path / "shards").iterdir())) == before
    data.write_bytes(whole)
    report = encode(store, data, encoders)
    assert (report.samples, report.repeated) == (4, 596)


def test_latents_of_another_size_are_refused(
    store: EncodingStore, encoders: EncoderSet, encoder: Encoder, latent_encoder: LatentEncoder
) -> None:
    with pytest.raises(ValueError, match="expected size 64, found 128: use another store"):
        prepare(store, encoder, latent_encoder, 128)
    for size in (60, 0, -64):
        with pytest.raises(ValueError, match=f"expected a multiple of 8 pixels, found {size}"):
            prepare(store, encoder, latent_encoder, size)


def test_captions_without_pictures(store: EncodingStore, encoders: EncoderSet, encoder: Encoder) -> None:
    assert encode_captions(store, encoders.fingerprint, encoder, ["a red circle", "a red circle", ""]) == 1
    assert encode_captions(store, encoders.fingerprint, encoder, ["a red circle"]) == 0
    assert store.encoding(encoders.fingerprint, caption_hash("a red circle")).ndim == 2


def test_a_caption_without_a_picture_that_is_not_finite_is_refused_and_the_rest_go_on(
    store: EncodingStore, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    encoder = poisoned("llama", "block", tmp_path)
    fingerprint = prepare(store, encoder, latent_encoder, SIZE).fingerprint
    assert encode_captions(store, fingerprint, encoder, ["a red circle", "a blue square", "a green circle"]) == 2
    for caption in ("a red circle", "a green circle"):
        np.testing.assert_array_equal(
            store.encoding(fingerprint, caption_hash(caption)), as_bits(encoder([caption])[0])
        )
    (reject,) = store.rejects().to_pylist()
    assert (reject["source"], reject["reason"]) == ("captions", "not_finite")
    assert "caption 'a blue square': non-finite values in block 2, token 1, channel 5" in reject["detail"]
    version = store.version
    assert encode_captions(store, fingerprint, encoder, ["a blue square"]) == 0
    assert (store.version, len(store.rejects())) == (version, 1)
    assert not verify(store)


def test_an_empty_caption_that_is_not_finite_is_an_error(
    store: EncodingStore, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    encoder = poisoned("llama", "block", tmp_path, word="<eos>")
    for _ in range(2):
        with pytest.raises(ValueError, match="the empty caption's encoding holds NaN or infinity"):
            prepare(store, encoder, latent_encoder, SIZE)
    assert [reject["detail"] for reject in store.rejects().to_pylist()] == [
        "caption '': non-finite values in block 2, token 0, channel 5"
    ]
    assert not verify(store)


def test_bands_lie_side_by_side() -> None:
    encoding = torch.arange(24.0).reshape(2, 3, 4)  # (band, token, hidden)
    bits = torch.from_numpy(as_bits(encoding).copy()).view(torch.bfloat16).float()
    torch.testing.assert_close(bits, torch.cat([encoding[0], encoding[1]], dim=1))


def test_progress_counts_every_row(store: EncodingStore, encoders: EncoderSet, tmp_path: Path) -> None:
    (shard,) = open_source(write_parquet(tmp_path / "a.parquet", [*ROWS, (b"junk", "x")]))
    for _ in range(2):
        seen: list[int] = []
        encode_shard(store, shard, encoders, seen.append)
        assert sum(seen) == 5
