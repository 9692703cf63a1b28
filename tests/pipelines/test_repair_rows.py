"""Which rows a repair looks for, and which of them are back: by their place, or by what they hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from pipelines.flows.repair import by_source, missing_rows, sources_holding
from storage import Sample, ShardWriter, content_hash
from storage.maintenance.repair import LOST
from tests.storage import synthetic
from tests.storage.repeated import add, elsewhere, repeat_of, write


def lost(*samples: Sample) -> pa.Table:
    return pa.Table.from_pylist([{name: getattr(sample, name) for name in LOST.names} for sample in samples], LOST)


def test_a_row_is_looked_for_where_it_lies_by_now(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    first = synthetic.sample(llm, "a", 0, "a caption")
    write(store, first)
    write(store, repeats=(repeat_of(elsewhere(first, "b", 3)),))
    assert sources_holding(store, lost(first)) == {content_hash(b"a"), content_hash(b"b")}
    other = synthetic.sample(llm, "a", 1, "another caption")
    assert sources_holding(store, lost(other)) == {content_hash(b"a")}


def test_a_row_that_came_back_in_another_place_is_not_missing(tmp_path: Path) -> None:
    store, llm = synthetic.make_store(tmp_path / "store")
    rows = [synthetic.sample(llm, "a", row, f"caption {row}") for row in range(3)]
    with ShardWriter(store, None, llm) as writer:
        add(writer, elsewhere(rows[0], "b", 7), rows[1], replace(rows[2], row=9, image_hash=content_hash(b"other")))
    missing = missing_rows(store, lost(*rows))
    assert by_source(missing) == {(llm, content_hash(b"a")): {2}}
