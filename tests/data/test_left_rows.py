"""Rows that left the data: named by the next run, and taken out where that is asked for; never those of other data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmdiff.data.encode import EncoderSet, prepare
from llmdiff.data.encode.data_name import data_name
from llmdiff.data.encode.data_set import LeftRows, drop_missing, find_left, note_sources
from llmdiff.data.sources import Columns, Listing, list_data, open_source, shards_of
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder, EncoderConfig
from storage import EncodingStore, ShardWriter
from storage.maintenance.data_sets import data_set, data_sets
from storage.maintenance.verify import verify
from tests.data.conftest import SIZE
from tests.data.data_set_run import CAPTIONS, PNG, contents, run
from tests.data.pictures import write_parquet
from tests.encoder import tiny_models


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a Parquet file of some of the pairs into a data set, and returns the data set's folder."""

    def write(data: str, file: str, *pairs: int) -> Path:
        write_parquet(tmp_path / data / file, [(PNG[number], CAPTIONS[number]) for number in pairs])
        return tmp_path / data

    return write


def captions(store: EncodingStore) -> list[str]:
    return sorted(store.samples()["caption"].to_pylist())


def test_rows_that_left_are_named_and_taken_out_on_request(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]
) -> None:
    run(store, write("photos", "a.parquet", 0, 1, 2), encoders)
    data = write("photos", "a.parquet", 1)
    expected = [f"a.parquet row 0: {CAPTIONS[0]!r}", f"a.parquet row 2: {CAPTIONS[2]!r}"]
    for _ in range(2):
        assert run(store, data, encoders).left == LeftRows(count=2, examples=expected)
    version = store.version
    (planned,) = drop_missing(store, [str(data)], dry_run=True).values()
    assert (planned["caption"].to_pylist(), store.version) == ([CAPTIONS[0], CAPTIONS[2]], version)
    assert drop_missing(store, [str(data)]) == {encoders.fingerprint: planned}
    assert captions(store) == [CAPTIONS[1]]
    assert len(EncodingStore.open(store.path, version).samples()) == 3, "an earlier version keeps them"
    assert run(store, data, encoders) == (1, 1, 0, 0, LeftRows(count=0))
    assert data_set(store, data_name(str(data)), encoders.fingerprint).earlier.keys() <= set(
        store.samples()["source_hash"].to_pylist()
    )
    assert run(store, write("photos", "a.parquet", 1, 2), encoders)[:4] == (2, 1, 1, 0), "they may come back"
    assert not verify(store)


def test_data_without_a_usable_row(store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]) -> None:
    """Such data are read from the first run on; rows that they had before are named as left."""
    data = write("photos", "a.parquet", 0)
    write_parquet(data / "a.parquet", [(b"junk", "x")])
    assert run(store, data, encoders)[3:] == (1, LeftRows(count=0))
    run(store, write("photos", "a.parquet", 0), encoders)
    (data / "a.parquet").unlink()
    (data / "metadata.jsonl").touch()
    left = run(store, data, encoders).left
    assert left == LeftRows(count=1, examples=[f"a.parquet row 0: {CAPTIONS[0]!r}"])


def test_rows_of_another_data_set_stay(store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]) -> None:
    """Some of them are rows of both, first found in either; and the file has the same name in both."""
    photos, drawings = write("photos", "a.parquet", 0, 1, 2), write("drawings", "a.parquet", 2, 3, 4)
    for data in (photos, drawings):
        run(store, data, encoders)
    write("photos", "a.parquet", 0, 4)
    assert run(store, photos, encoders).left == LeftRows(count=1, examples=[f"a.parquet row 1: {CAPTIONS[1]!r}"])
    write("drawings", "a.parquet", 3)
    assert run(store, drawings, encoders).left == LeftRows(count=1, examples=[f"a.parquet row 2: {CAPTIONS[2]!r}"])
    drop_missing(store, [str(drawings)])
    assert captions(store) == sorted(CAPTIONS[number] for number in (0, 1, 3, 4))
    drop_missing(store, [str(photos), str(drawings)])
    assert captions(store) == sorted(CAPTIONS[number] for number in (0, 3, 4))


def test_a_row_that_moved_to_another_data_set_stays(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]
) -> None:
    photos = write("photos", "a.parquet", 0, 1)
    run(store, photos, encoders)
    write("photos", "a.parquet", 0)
    assert run(store, write("drawings", "b.parquet", 1, 2), encoders)[:3] == (2, 1, 1)
    assert run(store, photos, encoders).left == LeftRows(count=0)
    assert len(captions(store)) == 3


def test_rows_that_no_run_noted_stay(store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]) -> None:
    """Rows of an earlier version of the program stay, and of shards that were encoded without a data set."""
    data = write("photos", "a.parquet", 0, 1)
    from llmdiff.data.encode import encode_shard

    for shard in open_source(data):
        encode_shard(store, shard, encoders)
    write("photos", "a.parquet", 1)
    assert run(store, data, encoders).left == LeftRows(count=0)
    assert len(captions(store)) == 2


def test_what_can_not_be_read_makes_no_row_missing(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]
) -> None:
    write("photos", "a.parquet", 0, 1)
    data = write("photos", "b.parquet", 2, 3)
    run(store, data, encoders)
    write("photos", "a.parquet", 1)
    whole = (data / "b.parquet").read_bytes()
    (data / "b.parquet").write_bytes(whole[:-20])
    left = run(store, data, encoders).left
    assert (left.count, left.replaced) == (None, 0)
    assert left.examples[0].startswith("b.parquet: ")
    with pytest.raises(ValueError, match=r"b\.parquet: expected a Parquet file"):
        drop_missing(store, [str(data)])
    unfinished = {"b.parquet": "changing"}
    sources = {shard.content_hash: shard.name for shard in open_source(data / "a.parquet")}
    assert find_left(store, str(data), encoders.fingerprint, sources, unfinished, {}).count is None
    assert len(captions(store)) == 4
    (data / "b.parquet").write_bytes(whole)
    assert run(store, data, encoders).left.count == 1


@pytest.mark.parametrize("unreadable", ["below", "."])
def test_a_folder_that_may_not_be_read_makes_no_row_missing_for_real(
    store: EncodingStore, encoders: EncoderSet, unreadable: str
) -> None:
    """The folder is one in the data, or the data's own; a user who is not root lists it: root may read all."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(folder, "photos")
        for name, number in (("below/a.parquet", 0), ("b.parquet", 1)):
            write_parquet(data / name, [(PNG[number], CAPTIONS[number])])
        run(store, data, encoders)
        (data / unreadable).chmod(0o311)
        listed = list_as_nobody(data)
        (data / unreadable).chmod(0o755)
        sources = {shard.content_hash: shard.name for shard in shards_of(listed.files)}
    (passed_over,) = listed.passed_over
    left = find_left(store, str(data), encoders.fingerprint, sources, {}, listed.passed_over)
    assert left == LeftRows(count=None, examples=[f"{passed_over}: cannot be read: Permission denied"])


def list_as_nobody(data: Path) -> Listing:
    """Return what a user without rights finds in a folder."""
    if os.geteuid() != 0:
        return list_data(data, may_be_empty=True)
    os.seteuid(65534)
    try:
        return list_data(data, may_be_empty=True)
    finally:
        os.seteuid(0)


def test_another_column_of_the_same_file_edits_no_row(
    store: EncodingStore, encoders: EncoderSet, tmp_path: Path
) -> None:
    """Samples of both stay, and each choice has rows of its own to lose."""
    data = tmp_path / "photos"
    data.mkdir()

    def write(*numbers: int) -> None:
        columns = {name: [f"{name} {CAPTIONS[number]}" for number in numbers] for name in ("short", "long")}
        pq.write_table(pa.table({"image": [PNG[number] for number in numbers], **columns}), data / "a.parquet")

    write(0, 1)
    short, long = (Columns(captions=(name,)) for name in ("short", "long"))
    assert run(store, data, encoders, short)[:3] == (2, 0, 2)
    assert run(store, data, encoders, long) == (2, 0, 2, 0, LeftRows(count=0))
    both = sorted(f"{name} {CAPTIONS[number]}" for name in ("short", "long") for number in (0, 1))
    assert captions(store) == both
    write(0)
    assert run(store, data, encoders, long).left.count == 1
    with pytest.raises(ValueError, match="encoded into it, found .*photos --caption-column long --image-column image"):
        drop_missing(store, [str(data)], columns=Columns(captions=("long",), image="image"))
    (dropped,) = drop_missing(store, [str(data)], columns=long).values()
    assert dropped["caption"].to_pylist() == [f"long {CAPTIONS[1]}"]
    assert captions(store) == [caption for caption in both if caption != f"long {CAPTIONS[1]}"]


def test_captions_alone_replace_nothing(store: EncodingStore, caption_encoders: EncoderSet, tmp_path: Path) -> None:
    """Nothing tells an edited caption from another one in its place."""
    file = tmp_path / "captions.txt"
    file.write_text("\n".join(CAPTIONS[:2]))
    run(store, file, caption_encoders)
    file.write_text("\n".join(CAPTIONS[2:4]))
    expected = [f"captions.txt row {number}: {CAPTIONS[number]!r}" for number in (0, 1)]
    assert run(store, file, caption_encoders).left == LeftRows(count=2, examples=expected)
    assert captions(store) == sorted(CAPTIONS[:4])


def test_what_is_passed_over_and_was_read_before_makes_no_row_missing(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]
) -> None:
    write("photos", "below/a.parquet", 0)
    data = write("photos", "b.parquet", 1)
    run(store, data, encoders)
    sources = {shard.content_hash: shard.name for shard in open_source(data / "b.parquet")}
    for passed_over, count in (({"below/": "cannot be read"}, None), ({"bel": "", "other/": "hidden"}, 1)):
        found = find_left(store, str(data), encoders.fingerprint, sources, {}, passed_over)
        assert found.count == count


def test_data_that_changed_since_must_be_encoded_first(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path], tmp_path: Path
) -> None:
    data = write("photos", "a.parquet", 0, 1)
    with pytest.raises(ValueError, match="expected data that were encoded into it, found .*photos"):
        drop_missing(store, [str(data)])
    run(store, data, encoders)
    write("photos", "a.parquet", 1, 2)
    with pytest.raises(ValueError, match=r"a\.parquet is new or changed since it was last encoded .*: encode first"):
        drop_missing(store, [str(data)])
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        drop_missing(store, [str(tmp_path / "gone")])
    assert len(captions(store)) == 2


def test_each_encoder_has_samples_of_its_own(
    store: EncodingStore, encoders: EncoderSet, latent_encoder: LatentEncoder, write: Callable[..., Path]
) -> None:
    model, config = tiny_models.build("llama"), EncoderConfig(dtype="float32", max_tokens=5)
    other = prepare(store, Encoder(model, tiny_models.tokenizer(), config), latent_encoder, SIZE)
    data = write("photos", "a.parquet", 0, 1)
    for each in (encoders, other):
        run(store, data, each)
    write("photos", "a.parquet", 1)
    assert run(store, data, other).left.count == 1
    with pytest.raises(ValueError, match=f"under {encoders.fingerprint}: it is not known which rows have left"):
        drop_missing(store, [str(data)], encoders.fingerprint)
    drop_missing(store, [str(data)], other.fingerprint)
    assert {key: len(store.samples(key)) for key in (encoders.fingerprint, other.fingerprint)} == {
        encoders.fingerprint: 2,
        other.fingerprint: 1,
    }


def test_a_run_that_was_cut_short_is_noted(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]
) -> None:
    """Its sources count as those of the data set, and those that it did not come to are not gone."""
    data = write("photos", "a.parquet", 0)
    run(store, data, encoders)
    before = data_sets(store)[0].sources
    note_sources(store, str(data), encoders.fingerprint, {"0" * 64: "b.parquet"})
    (known,) = data_sets(store, encoders.fingerprint)
    assert (dict(known.sources), known.earlier) == ({**before, "0" * 64: "b.parquet"}, {})
    assert run(store, data, encoders).left.count == 0
    assert dict(data_sets(store)[0].earlier) == {"0" * 64: "b.parquet"}


def test_rows_that_can_not_be_taken_out_are_an_error_unless_a_writer_is_at_work(
    encoder: Encoder, latent_encoder: LatentEncoder, s3_url: str, write: Callable[..., Path]
) -> None:
    """An object store's writers keep such removals out, and the next run makes up for it; damage is told."""
    store = EncodingStore.create(s3_url)
    encoders = prepare(store, encoder, latent_encoder, SIZE)
    data = write("photos", "a.parquet", 0, 1)
    run(store, data, encoders)
    write_parquet(data / "a.parquet", [(PNG[0], "another"), (PNG[1], CAPTIONS[1])])
    tables = {file: pq.read_table(file.arrow_source()) for file in store.index.parquet_files()}
    ((file, table),) = [each for each in tables.items() if "a.parquet" in each[1]["source"].to_pylist()]
    with ShardWriter(store, "other", encoders.fingerprint):
        assert run(store, data, encoders).left.replaced == 0
    whole, damaged = file.read_bytes(), pa.BufferOutputStream()
    pq.write_table(table.drop_columns(["crop"]), damaged)
    file.write(damaged.getvalue().to_pybytes())
    with pytest.raises(ValueError, match="crop"):
        run(store, data, encoders)
    file.write(whole)
    assert run(store, data, encoders).left.replaced == 1
    assert captions(store) == [CAPTIONS[1], "another"]


def test_a_file_of_sources_that_can_not_be_read_is_named(
    store: EncodingStore, encoders: EncoderSet, write: Callable[..., Path]
) -> None:
    run(store, write("photos", "a.parquet", 0), encoders)
    (file,) = (store.path / "data").children()
    file.write(b"{")
    with pytest.raises(ValueError, match=f"{file.name}: expected the sources of a data set"):
        data_sets(store)
    assert contents(store)
