"""Random edits of a data set against a plain model: the store's samples are the distinct rows, and nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmdiff.data.encode import prepare
from llmdiff.data.encode.data_set import drop_missing
from llmdiff.diffusion.latents import LatentEncoder
from llmdiff.encoder import Encoder
from storage import EncodingStore
from storage.hashing import content_hash
from storage.maintenance.verify import verify
from tests.data.data_set_run import contents, run
from tests.data.pictures import encoded, picture
from tests.examples import examples

PNG = [encoded(picture(16, 16, seed=seed)) for seed in range(3)]
CAPTIONS = ["a red circle", "a blue square", "a green triangle"]
HASHES = [content_hash(data) for data in PNG]

ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=5)
EDITS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["append", "write"]), st.sampled_from("abc"), ROWS),
        st.tuples(st.just("delete"), st.sampled_from("abc"), st.integers(0, 4)),
        st.tuples(st.sampled_from(["rename", "sort", "copy", "split"]), st.sampled_from("abc"), st.sampled_from("abc")),
        st.tuples(st.just("drop"), st.just(""), st.none()),
    ),
    min_size=1,
    max_size=6,
)
Files = dict[str, list[tuple[int, int]]]


@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
@given(first=ROWS.filter(bool), edits=EDITS)
def test_the_store_holds_what_the_data_held(
    encoder: Encoder, latent_encoder: LatentEncoder, first: list[tuple[int, int]], edits: list[tuple[str, str, object]]
) -> None:
    """It holds all rows that a run saw and none replaced; after `drop_missing`, those that the data hold."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["LLMDIFF_CACHE"]))
    store = EncodingStore.create(folder / "store")
    encoders = prepare(store, encoder, latent_encoder, 16)
    files: Files = {"a": first, "z": [(0, 0)]}
    held = set()
    for kind, file, how in [("none", "", None), *edits]:
        edit(files, kind, file, how)
        write(folder / "data", files)
        done = run(store, folder / "data", encoders)
        now = {(HASHES[image], CAPTIONS[caption]) for rows in files.values() for image, caption in rows}
        held |= now
        found = contents(store)
        assert len(found) == len(set(found)), "nothing is there twice"
        assert now <= set(found) <= held
        assert (done.rejected, done.left.count) == (0, len(set(found) - now))
        if kind == "drop":
            drop_missing(store, [str(folder / "data")])
            assert set(contents(store)) == now
        held = set(contents(store))
    drop_missing(store, [str(folder / "data")])
    assert contents(store) == sorted(now, key=str)
    assert run(store, folder / "data", encoders).new == 0
    assert verify(store) == []
    shutil.rmtree(folder)


def edit(files: Files, kind: str, file: str, how: object) -> None:
    rows = files.get(file, [])
    if kind == "append":
        files[file] = [*rows, *how]
    elif kind == "write":
        files[file] = list(how)
    elif kind == "delete":
        files[file] = rows[:how] + rows[how + 1 :]
    elif kind == "sort":
        files[file] = sorted(rows)
    elif kind == "copy":
        files[how] = list(rows)
    elif kind == "rename" and file in files:
        files[how] = files.pop(file)
    elif kind == "split":
        files[file], files[how] = rows[:2], rows[2:]


def write(folder: Path, files: Files) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, rows in files.items():
        columns = {"image": [PNG[image] for image, _ in rows], "text": [CAPTIONS[caption] for _, caption in rows]}
        schema = pa.schema([("image", pa.binary()), ("text", pa.string())])
        pq.write_table(pa.table(columns, schema), folder / f"{name}.parquet")
