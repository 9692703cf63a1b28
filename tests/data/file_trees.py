"""Made-up folders of data: files of every kind, good, broken and of no use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from tests.data.pictures import encoded, picture, write_tar

PNG = [encoded(picture(seed=seed)) for seed in range(3)]
FOLDERS = ("", "a", "a/b", ".hidden", "c")
STEMS = ("0", "1", "v1.0")
PICTURES = (PNG[0], PNG[1], b"junk", b"")
TEXTS = (
    *("a red circle", "two\nlines", "", "a </s> b", '{"caption": "of json"}', '[{"caption": "a row"}]', "\ufeffmark"),
    *('{"caption": "of one"}\n{"caption": "of lines"}', '{"0.png": ["a", null]}', '{"0.png": {"n": 1}}', '[{"id": 1}]'),
)
ROWS = (
    {"file_name": "0.png", "text": "named"},
    {"file_name": "b/1.JPG", "text": "named below"},
    {"text": "without a picture"},
    {"file_name": "../0.png", "text": ["one", "two"]},
    {"caption": ""},
)
OTHERS = ("x.zip", "README", "LICENSE.md", ".DS_Store", ".x.jsonl", "._0.png", "dataset_info.json", "0_stats.json")


def parquet(file: Path, rows: list[dict[str, Any]], kind: int) -> None:
    captions = [str(row.get("text")) for row in rows]
    lists = pa.array([[c, ""][: i % 3] for i, c in enumerate(captions)], pa.list_(pa.string()))
    table = (
        {"text": captions, "caption": lists}
        if kind
        else {"text": captions, "image": [PNG[i % 3] for i in range(len(rows))]}
    )
    pq.write_table(pa.table(table), file)


def csv(file: Path, rows: list[dict[str, Any]]) -> None:
    lines = [f"{row.get('file_name', '')},{row.get('text', '')!s}" for row in rows]
    file.write_text("\n".join(["file_name,text", *lines, 'x,"open'][: len(rows) + 1 + len(rows) % 2]))


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[str, str, Any]]:
    """Files by folder, name and content; a folder's name for a link to it."""
    rows = st.lists(st.sampled_from(ROWS), max_size=4)
    kinds = st.one_of(
        st.tuples(
            st.just("picture"), st.sampled_from(STEMS), st.sampled_from((".png", ".JPG")), st.sampled_from(PICTURES)
        ),
        st.tuples(
            st.just("text"),
            st.sampled_from((*STEMS, "0.png", "1.JPG")),
            st.sampled_from((".txt", ".caption", ".json", ".TXT")),
            st.sampled_from(TEXTS),
        ),
        st.tuples(st.just("jsonl"), st.sampled_from(("metadata", "x")), st.just(".jsonl"), rows),
        st.tuples(st.just("csv"), st.just("y"), st.just(".csv"), rows),
        st.tuples(st.just("scores"), st.just("s"), st.just(".csv"), st.sampled_from(("path", "file", "text"))),
        st.tuples(
            st.just("parquet"), st.sampled_from(("0", "a")), st.just(".parquet"), st.tuples(rows, st.integers(0, 1))
        ),
        st.tuples(
            st.just("tar"), st.sampled_from(("0", "t")), st.just(".tar"), st.tuples(st.integers(0, 7), st.booleans())
        ),
        st.tuples(st.just("other"), st.sampled_from(OTHERS), st.just(""), st.just(b"{}")),
        st.tuples(st.just("link"), st.just("link"), st.just(""), st.sampled_from(("a", "..", "nowhere"))),
    )
    return draw(st.lists(st.tuples(st.sampled_from(FOLDERS), kinds), min_size=1, max_size=14))


def write(root: Path, tree: list[Any]) -> None:
    for folder, (kind, stem, ending, content) in tree:
        file = root / folder / (stem + ending)
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            if not file.is_symlink():
                file.symlink_to(content)
        elif kind in ("picture", "other"):
            file.write_bytes(content)
        elif kind == "text":
            file.write_text(content)
        elif kind == "jsonl":
            file.write_text("\n".join([*map(json.dumps, content), "{broken"][: len(content) + len(content) % 2]))
        elif kind == "csv":
            csv(file, content)
        elif kind == "scores":
            file.write_text(f"{content};score\n0.png;1\n")
        elif kind == "parquet":
            parquet(file, *content)
        else:
            tar(file, *content)


def tar(file: Path, members: int, cut: bool) -> None:
    names = ["0.png", "0.txt", "1.png", "2.txt", "3.json", "3.png", "x.npy"]
    write_tar(file, {name: PNG[0] if name.endswith("png") else TEXTS[i % 5] for i, name in enumerate(names[:members])})
    if cut:
        file.write_bytes(file.read_bytes()[: 900 * members])
