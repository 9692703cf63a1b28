"""An encode run that knows what its models are: it loads them only where there is something new, or they changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.flows import encode
from pipelines.flows.encode import EncodeResult, encode_flow
from pipelines.requests.encode import EncodeRequest
from pipelines.runtime.encode import known_encoders
from storage import EncodingStore
from storage.index.snapshot import Snapshot
from tests.data.pictures import encoded, picture, write_parquet
from tests.pipelines.conftest import World

Run = Callable[..., EncodeResult]


@pytest.fixture
def run(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Encode a shard of two pictures, whose LLM is a copy of the test's own."""
    llm = Path(shutil.copytree(world.llm, tmp_path / "llm"))
    write_parquet(tmp_path / "data" / "a.parquet", [(encoded(picture(seed=i)), f"a red {i}") for i in range(2)])
    given = {"data": str(tmp_path / "data"), "store": str(tmp_path / "store"), "llm": str(llm)}
    load = encode.encode_new

    def encode_again(loads: bool, **options: Any) -> EncodeResult:
        loaded: list[bool] = []
        monkeypatch.setattr(encode, "encode_new", lambda *given: loaded.append(True) or load(*given))
        result = encode_flow(EncodeRequest(**{**given, "diffusion": world.diffusion, **options}))
        assert loaded == [True] * loads
        return result

    return encode_again


def test_a_run_with_nothing_new_loads_no_model_and_says_the_same(run: Run, tmp_path: Path) -> None:
    first = run(loads=True)
    (tmp_path / "data" / "broken.parquet").write_bytes(b"not parquet, but long enough for a footer")
    loaded = run(loads=True, min_side=1)
    known = run(loads=False, min_side=1)
    assert (known.samples, known.known, known.rows) == (0, 2, 2)
    assert "expected a Parquet file" in known.unreadable["broken.parquet"]
    same = {"fingerprint", "store_version", "rows", "known", "rejected", "unreadable", "missing", "missing_rows"}
    assert known.model_dump(include=same) == loaded.model_dump(include=same)
    assert known.fingerprint == first.fingerprint


def test_shards_before_a_new_one_are_looked_up_once_and_counted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(loads=True)
    write_parquet(tmp_path / "data" / "b.parquet", [(encoded(picture(seed=9)), "a green cross")])
    (tmp_path / "data" / "c.parquet").write_bytes((tmp_path / "data" / "a.parquet").read_bytes())
    (tmp_path / "data" / "0.parquet").write_bytes(b"not parquet, but long enough for a footer")
    looked: list[str] = []
    found = Snapshot.sample_rows
    monkeypatch.setattr(Snapshot, "sample_rows", lambda self, *of: looked.append(of[1]) or found(self, *of))
    result = run(loads=True)
    assert [(each.source, each.known, each.samples) for each in result.shards] == [
        ("a.parquet", 2, 0),
        ("b.parquet", 0, 1),
        ("c.parquet", 2, 0),
    ]
    assert (result.rows, result.missing, list(result.unreadable)) == (5, None, ["0.parquet"])
    first, *_ = [each.source_hash for each in result.shards]
    assert looked.count(first) == 2, "once each for a.parquet and c.parquet, which hold the same"


def test_what_is_new_is_encoded(run: Run, tmp_path: Path) -> None:
    run(loads=True)
    assert run(loads=True, captions=["a blue square"]).samples == 0
    run(loads=False, captions=["a blue square"])
    write_parquet(tmp_path / "data" / "b.parquet", [(encoded(picture(seed=9)), "a green cross")])
    assert run(loads=True).samples == 1
    assert run(loads=False).rows == 3
    EncodingStore.open(tmp_path / "store")
    assert run(loads=True, store=str(tmp_path / "other")).samples == 3


def test_a_changed_model_is_loaded_whatever_its_times_say(run: Run, tmp_path: Path) -> None:
    first, weights = run(loads=True), tmp_path / "llm" / "model.safetensors"
    before = weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(loads=True).fingerprint != first.fingerprint


@pytest.mark.parametrize("part", ["_code", "_versions"])
def test_other_code_and_other_packages_may_see_another_model(
    part: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(loads=True)
    monkeypatch.setattr(known_encoders, part, lambda: "another")
    run(loads=True)
    run(loads=False)


def test_a_model_that_changes_while_it_is_loaded_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text("{}")
    request = EncodeRequest(data="d", store="s", llm=str(tmp_path / "llm"))
    known = known_encoders.KnownEncoders(state=known_encoders.state_of(request), fingerprint="f")
    (tmp_path / "llm" / "config.json").write_text("[]")
    known_encoders.keep(request, False, known)
    assert known_encoders.recall(request, False) is None
    known = known.model_copy(update={"state": known_encoders.state_of(request)})
    known_encoders.keep(request, False, known)
    assert known_encoders.recall(request, False) == known
    assert known_encoders.recall(request, True) is None
    changed = request.model_copy(update={"size": 64})
    assert known_encoders.recall(changed, False) is None


def test_nothing_is_kept_of_a_model_that_nobody_knows_the_state_of(tmp_path: Path) -> None:
    request = EncodeRequest(data="d", store="s", llm="somebody/on-no-hub")
    assert known_encoders.state_of(request) == ""
    known_encoders.keep(request, False, known_encoders.KnownEncoders(state="", fingerprint="f"))
    assert known_encoders.recall(request, False) is None
