"""Pictures in buckets, and with their mirror images: what is kept of them, where it goes, and what the store says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from llmdiff.data.buckets import Buckets, check_step, default_step
from llmdiff.data.encode import EncoderSet, encode_shard, prepare
from llmdiff.data.images import MAX_ASPECT, load_image
from llmdiff.data.sources import open_source
from llmdiff.data.sources.folders.kohya import folder_repeats
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder
from storage import EncodingStore, caption_hash
from storage.maintenance.export import export
from storage.maintenance.repair import repair
from storage.maintenance.summary import summarise
from storage.maintenance.verify import verify
from storage.reading.dataset import DatasetConfig, EncodingDataset
from tests.data.conftest import SIZE
from tests.data.pictures import encoded, picture, write_parquet
from tests.examples import examples

SIZES = [(96, 64), (64, 96), (80, 80), (96, 64), (300, 60)]
ROWS = [
    (encoded(picture(*size, seed=i)), f"a red circle {'on the left' if i == 2 else ''}") for i, size in enumerate(SIZES)
]


def test_the_buckets_of_512_pixels() -> None:
    """Literals: the latents of a store depend on them."""
    found = Buckets(size=512, step=64).sizes
    wide = [(512, 512), (576, 384), (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256)]
    wide += [(960, 256), (1024, 256)]
    assert sorted(size for size in found if size[0] >= size[1]) == sorted([*wide, (512, 448)])
    assert {(height, width) for width, height in found} == set(found)


@pytest.mark.parametrize(
    ("size", "step", "within"), [(512, 64, 0.13), (1024, 64, 0.031), (512, 32, 0.031), (64, 8, 0.13)]
)
def test_little_is_cut_of_what_is_no_longer_than_twice_its_width(size: int, step: int, within: float) -> None:
    buckets = Buckets(size=size, step=step)
    for width in range(500, 2001, 10):
        across, down = buckets.of(width, 1000)
        ratio = across / down / (width / 1000)
        assert min(ratio, 1 / ratio) >= 1 - within


@pytest.mark.parametrize(
    ("picture_size", "bucket"),
    [((3000, 2000), (576, 384)), ((2000, 3000), (384, 576)), ((4000, 3000), (576, 448)), ((1920, 1080), (640, 384))]
    + [((512, 512), (512, 512)), ((100, 100), (512, 512)), ((9000, 100), (1024, 256)), ((1, 3000), (256, 1024))],
)
def test_pictures_go_into_the_nearest_bucket(picture_size: tuple[int, int], bucket: tuple[int, int]) -> None:
    assert Buckets(size=512, step=64).of(*picture_size) == bucket


@settings(max_examples=examples(100), deadline=None)
@given(width=st.integers(1, 400), height=st.integers(1, 400))
def test_the_centre_of_a_picture_fills_its_bucket(width: int, height: int) -> None:
    assume(max(width, height) <= MAX_ASPECT * min(width, height))
    buckets = Buckets(size=64, step=8)
    pixels, crop = load_image(encoded(picture(width, height), compress_level=1), 64, buckets=buckets)
    across, down = buckets.of(width, height)
    assert pixels.shape == (down, across, 3)
    scale = max(across / width, down / height)
    assert crop[:2] == (width, height)
    for side, kept, corner in ((width, across, crop.left), (height, down, crop.top)):
        assert corner == (max(kept, round(side * scale)) - kept) // 2
    assert 0 in crop[2:]  # one side is whole


def test_a_picture_of_a_buckets_size_is_left_as_it_is() -> None:
    source = picture(72, 56)
    pixels, crop = load_image(encoded(source), 64, buckets=Buckets(size=64, step=8))
    np.testing.assert_array_equal(pixels, np.asarray(source))
    assert crop == (72, 56, 0, 0)


@pytest.mark.parametrize(
    ("size", "factor", "step"), [(512, 8, 64), (1024, 8, 64), (256, 8, 32), (64, 8, 8), (32, 4, 4), (8, 8, 8)]
)
def test_the_step_follows_from_a_small_size(size: int, factor: int, step: int) -> None:
    assert default_step(size, factor) == step


def test_steps_that_do_not_fit_are_refused() -> None:
    for step in (12, 0):
        with pytest.raises(ValueError, match=f"bucket_step: expected a multiple of 8 pixels, found {step}"):
            check_step(64, step, 8)
    with pytest.raises(ValueError, match="bucket_step: expected at most a quarter of the size, 64 pixels, found 64"):
        check_step(64, 64, 8)


def encode(store: EncodingStore, data: Path, encoders: EncoderSet) -> int:
    (shard,) = open_source(data)
    return encode_shard(store, shard, encoders).samples


def test_latents_of_all_buckets_are_those_of_each_picture_alone(
    store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    encoders = prepare(store, encoder, latent_encoder, SIZE, buckets=True)
    data = write_parquet(tmp_path / "a.parquet", ROWS)
    assert encode(store, data, encoders) == 5
    assert encode(store, data, encoders) == 0
    assert not verify(store)
    about = next(about for about in store.fingerprints().values() if about["kind"] == "vae")
    kept = {"size": 64, "crop": "buckets/1", "bucket_step": 8, "factor": 8}
    assert {**about, **kept} == about
    reader = EncodingDataset(store.path, DatasetConfig(fingerprint=encoders.fingerprint, batch_size=2))
    assert reader.index.shapes == ["4x4x16", "4x6x9", "4x8x8", "4x9x6"]
    assert summarise(store)["latent_shapes"] == {"4x4x16": 1, "4x6x9": 2, "4x8x8": 1, "4x9x6": 1}
    found = {
        row: latent for batch in reader.epoch(0) for (_, row), latent in zip(batch.rows, batch.latents, strict=True)
    }
    crops = {sample["row"]: sample["crop"] for sample in store.samples().to_pylist()}
    for row, (image, _) in enumerate(ROWS):
        pixels, crop = load_image(image, SIZE, buckets=Buckets(size=SIZE, step=8))
        torch.testing.assert_close(found[row], latent_encoder(np.stack([pixels]))[0], rtol=2e-3, atol=2e-3)
        assert crops[row] == list(crop)


def test_the_mirror_image_is_kept_with_the_picture(
    store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    encoders = prepare(store, encoder, latent_encoder, SIZE, flip=True)
    encode(store, write_parquet(tmp_path / "a.parquet", ROWS), encoders)
    assert not verify(store)
    reader = EncodingDataset(store.path, DatasetConfig(fingerprint=encoders.fingerprint, batch_size=2))
    assert reader.index.shapes == ["2x4x8x8"]
    seen = set()
    for batch in [batch for epoch in range(4) for batch in reader.epoch(epoch)]:
        assert batch.mirrored is not None
        for (_, row), mirrored, latent in zip(batch.rows, batch.mirrored.tolist(), batch.latents, strict=True):
            image = Image.fromarray(load_image(ROWS[row][0], SIZE)[0])
            pixels = np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image)
            torch.testing.assert_close(latent, latent_encoder(np.stack([pixels]))[0], rtol=2e-3, atol=2e-3)
            seen.add((row, mirrored))
    assert seen == {(row, side) for row in range(5) for side in (False, True)} - {(2, True)}  # "on the left"
    assert len(export(store, tmp_path / "out", encoders.fingerprint)) == 1


def test_a_pair_that_was_lost_is_encoded_again(
    store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder, tmp_path: Path
) -> None:
    encoders = prepare(store, encoder, latent_encoder, SIZE, buckets=True, flip=True)
    data = write_parquet(tmp_path / "a.parquet", ROWS)
    encode(store, data, encoders)
    file = next(path for path in (store.path / "shards").glob("a-*/latents/2x4x6x9/c/**/*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    problems = verify(store)
    assert len(repair(store, problems).lost) == 1
    assert encode(store, data, encoders) == 1
    assert not verify(store)
    assert len(store.samples()) == 5


def test_pictures_made_ready_in_another_way_are_refused(
    store: EncodingStore, encoder: Encoder, latent_encoder: LatentEncoder
) -> None:
    """The key of a latent says how its picture was made ready; that of centred squares is what it always was."""
    prepare(store, encoder, latent_encoder, SIZE, buckets=True, flip=True)
    cases = [
        ({}, "expected crop 'buckets/1', found 'centre'"),
        ({"buckets": True}, "expected flip True, found None"),
        ({"buckets": True, "flip": True, "bucket_step": 16}, "expected bucket_step 8, found 16"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=f"{message}: use another store"):
            prepare(store, encoder, latent_encoder, SIZE, **options)
    with pytest.raises(ValueError, match="bucket_step: expected a multiple of 8 pixels, found 12"):
        prepare(store, encoder, latent_encoder, SIZE, buckets=True, bucket_step=12)


def test_the_key_of_centred_squares_says_nothing_of_buckets(store: EncodingStore, encoders: EncoderSet) -> None:
    assert encoders.latents is not None
    about = store.fingerprints()[encoders.latents.fingerprint]
    assert sorted(about) == ["crop", "formula", "kind", "model", "pixels", "scaling_factor", "size", "weights"]
    assert (about["size"], about["crop"]) == (64, "centre")


def test_kohyas_folders_are_told_from_sizes_years_and_files() -> None:
    sources = [
        "10_cats/",
        "512_pictures/",
        "x/2024_holiday/[0:4096]",
        "cats_10/",
        "10/",
        "_a/",
        "3_a/b/",
        "4_a/b.parquet",
    ]
    assert folder_repeats(sources) == {"10_cats/": 10, "512_pictures/": 512, "x/2024_holiday/[0:4096]": 2024}


def test_a_folder_of_kohyas_gives_its_name_to_its_samples(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    for name, count in (("2_cats", 2), ("dogs", 1)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "data" / name / f"{i}.png").write_bytes(encoded(picture(seed=len(name) + i)))
            (tmp_path / "data" / name / f"{i}.txt").write_text(f"a {name} {i}")
    shards = open_source(tmp_path / "data")
    for shard in shards:
        encode_shard(store, shard, encoders)
    repeats = folder_repeats(shard.name for shard in shards)
    assert repeats == {"2_cats/": 2}
    config = DatasetConfig(fingerprint=encoders.fingerprint, batch_size=8, repeats=repeats)
    (batch,) = EncodingDataset(store.path, config).epoch(0)
    assert sorted(batch.rows) == [("2_cats/", 0), ("2_cats/", 0), ("2_cats/", 1), ("2_cats/", 1), ("dogs/", 0)]
    assert caption_hash("a dogs 0") in batch.caption_hashes
