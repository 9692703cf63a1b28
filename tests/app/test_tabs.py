"""What is behind the tabs: fields, reasons, the store, a run."""

from __future__ import annotations

import io
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="llmdiff[app] is not installed")

import gradio as gr

from pipelines.app import run_view, store_tab, store_view
from pipelines.app.fields import OWN_SCHEDULER, RECORDED, request_of
from pipelines.app.models import Models
from pipelines.app.rejected import list_rejects, opened, rejected_picture
from pipelines.app.run_tab import look_at
from pipelines.app.sessions import Stops, shown
from pipelines.app.sources import choices
from pipelines.app.try_tab import of_row
from pipelines.app.why import reasons
from pipelines.requests.app import AppRequest
from pipelines.requests.generate import GenerateRequest
from storage import EncodingStore
from tests.app.conftest import MARKUP, ODD

VALUES: tuple[Any, ...] = ("x", RECORDED, "base", " a \n\nb", "not", 4, 7, 2.0, 0.5, OWN_SCHEDULER)


def test_fields_become_the_request_of_the_command() -> None:
    expected = {"adapter": "x", "diffusion": "base", "prompts": ["a", "b"], "negative": "not"}
    more = {"seed": 4, "steps": 7, "guidance": 2.0, "scale": 0.5}
    assert request_of(VALUES) == GenerateRequest(**expected, **more)
    assert request_of((*VALUES[:3], *of_row(VALUES, 1))) == GenerateRequest(
        **{**expected, **more, "prompts": ["b"], "seed": 5}
    )
    with pytest.raises(ValueError, match="generate: steps: .*greater than or equal to 1, found 0"):
        request_of((*VALUES[:6], 0, *VALUES[7:]))
    with pytest.raises(ValueError, match=r"generate: seed: .*, found 1000000000000000000000"):
        request_of((*VALUES[:5], 10**21, *VALUES[6:]))
    with pytest.raises(ValueError, match=r"generate: seed: .*valid integer, found None"):
        request_of((*VALUES[:5], None, *VALUES[6:]))
    with pytest.raises(ValueError, match="adapter: expected a folder or a version, found none"):
        request_of((None, *VALUES[1:]))


def test_errors_are_the_commands_own_line_as_text() -> None:
    @shown
    def action() -> None:
        raise ValueError(f"{MARKUP}: expected\nnone")

    with pytest.raises(gr.Error) as error:
        action()
    assert error.value.message == "&lt;img src=x onerror=window.hacked=1&gt;: expected none"


def test_a_stop_is_of_its_session_alone() -> None:
    stops = Stops()
    mine, theirs = stops.begin("mine"), stops.begin("theirs")
    stops.stop("mine")
    assert (mine.is_set(), theirs.is_set(), stops.begin("mine").is_set()) == (True, False, False)
    for session in ("mine", "theirs"):
        stops.ask(session)
    stops.stop("mine")  # while it waits for the models
    stops.ask("mine")
    assert [stops.begin(session).is_set() for session in ("mine", "mine", "theirs")] == [True, False, False]


def test_choices_are_what_the_demonstration_left(at_demo: Path) -> None:
    found = choices(AppRequest())
    folder = str(at_demo / "demo" / "adapter" / "adapter")
    assert found.adapters == ["models:/llmdiff-adapter@candidate", "models:/llmdiff-adapter/1", folder]
    assert found.stores == [str(at_demo / "demo" / "store")]
    assert choices(AppRequest(adapter="mine", store="there")).adapters[0] == "mine"


def test_a_damaged_adapter_takes_no_other_from_the_menus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMDIFF_HOME", str(tmp_path))
    for name, text in (
        ("good", '{"encoding_dim": 8, "context_dim": 8, "store": "there"}'),
        ("bad", "{"),
        ("old", "[]"),
    ):
        folder = tmp_path / name / "adapter"
        folder.mkdir(parents=True)
        (folder / "adapter.safetensors").touch()
        (folder / "adapter_config.json").write_text(text)
    found = choices(AppRequest())
    assert (found.adapters, found.stores) == ([str(tmp_path / "good" / "adapter")], ["there"])


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("EPS", (8, 8), "cannot identify"),
        ("PNG", (40_000, 3_000), "expected at most 100000000 pixels, found 120000000"),
    ],
)
def test_a_refused_picture_is_shown_by_no_other_program_and_in_bounded_memory(
    kind: str, size: tuple[int, int], message: str
) -> None:
    data = io.BytesIO()
    Image.new("1" if kind == "PNG" else "RGB", size).save(data, kind)
    with pytest.raises(ValueError, match=f"a row: the picture can't be decoded: {message}"):
        opened(data.getvalue(), "a row")


def test_no_name_of_a_shard_leads_out_of_the_store(tmp_path: Path) -> None:
    store = EncodingStore.create(tmp_path / "store")
    row = {"latent_shard": "../../other", "latent_shape": "4x8x8", "latent_index": 0, "latent_checksum": 0}
    with pytest.raises(ValueError, match=r"expected the name of a shard, found '../../other'"):
        store_view.read_latent(store, row)


def test_without_runs_there_is_little_to_choose() -> None:
    found = choices(AppRequest())
    assert (found.adapters, found.stores) == ([], [])
    assert run_view.list_runs() == []


def test_reasons_have_a_map_for_each_token_of_both_paths(at_demo: Path) -> None:
    request = GenerateRequest(prompts=["a red circle"], adapter=choices(AppRequest()).adapters[0], steps=2)
    found = reasons(Models(), request, lambda done, total: None, threading.Event())
    labels = [label.split(" ")[1] for _, label in found.new]
    assert labels[:3] == ["a", "red", "circle"]
    shares = [float(label.rpartition("· ")[2].rstrip("%")) for _, label in found.new]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
    assert [label.split(" ")[:2] for _, label in found.original] == [label.split(" ")[:2] for _, label in found.new]
    assert {image.size for image, _ in found.new} == {found.picture.size}
    assert found.heat_map is not None


def test_the_store_is_searched_counted_and_shown(at_demo: Path) -> None:
    store = EncodingStore.open(at_demo / "demo" / "store")
    (fingerprint,) = store_view.encoders(store)
    every = store_view.find_samples(store.snapshot(), "", fingerprint).to_pylist()
    assert len(every) == 21
    assert [row["row"] for row in every if row["source"].startswith("shapes")] == list(range(20))
    (odd,) = store_view.find_samples(store.snapshot(), "ONERROR <img").to_pylist()
    assert store_view.describe_sample(odd).startswith(f"{MARKUP}\n{ODD} row 0 · ")
    pictures = store_view.decode_pictures(
        store,
        [next(row for row in every if row["source"].startswith("shapes") and row["row"] == 7)],
        Models().latent_encoder(choices(AppRequest()).bases[0]),
    )
    (picture,) = pictures.values()
    drawn = pq.read_table(next((at_demo / "demo" / "data").glob("shapes-*")))["image"][7].as_py()["bytes"]
    difference = np.asarray(picture, float) - np.asarray(Image.open(io.BytesIO(drawn)), float)
    assert np.abs(difference).mean() < 8
    rows = {row[0]: row[1:] for row in store_view.sources(store)}
    assert rows[ODD][0] == 1
    assert rows[ODD][4] == 2
    assert all(row[-1] > 0 for row in rows.values())


def test_captions_alone_and_a_store_without_its_adapter_need_no_base(at_demo: Path) -> None:
    store = EncodingStore.open(at_demo / "demo" / "store")
    row = {**store_view.find_samples(store.snapshot()).to_pylist()[0], "latent_key": None, "crop": None}
    ((picture, _),) = store_tab.pictures(Models(), store, [row], "./gone", RECORDED)
    assert picture.size == (64, 64)
    assert store_tab.encoder_of("./gone") == ""
    with pytest.raises(OSError, match="gone"):
        store_tab.pictures(Models(), store, [{**row, "latent_key": "there"}], "./gone", RECORDED)


def test_the_nearest_caption_to_one_that_is_stored_is_itself(at_demo: Path) -> None:
    import torch

    store = EncodingStore.open(at_demo / "demo" / "store")
    (fingerprint,) = store_view.encoders(store)
    row = store_view.find_samples(store.snapshot(), "", fingerprint).to_pylist()[3]
    encoding = torch.from_numpy(store.encoding(fingerprint, row["caption_hash"])).view(torch.bfloat16)
    found = store_view.nearest(store, fingerprint, encoding, count=3)
    assert found[0] == (pytest.approx(1.0, abs=1e-3), row)
    assert [cosine for cosine, _ in found] == sorted((cosine for cosine, _ in found), reverse=True)
    with pytest.raises(ValueError, match="no caption under other, the adapter's encoder"):
        store_view.nearest(store, "other", encoding)


def test_rejects_show_the_picture_where_it_can_be_read(at_demo: Path) -> None:
    store = EncodingStore.open(at_demo / "demo" / "store")
    small, broken = list_rejects(store)
    assert (small[1], broken[1]) == (1, 2)
    assert rejected_picture(store, small[4], 1, small[5]).size == (8, 8)
    with pytest.raises(ValueError, match=rf"{ODD} row 2: the picture can't be decoded"):
        rejected_picture(store, broken[4], 2, broken[5])
    with pytest.raises(ValueError, match="does not know which data"):
        rejected_picture(store, "another", 2, broken[5])


def test_a_run_shows_its_curves_weights_and_pictures(at_demo: Path, tmp_path: Path) -> None:
    ((name, status, run),) = run_view.list_runs()
    assert (name, status) == (MARKUP, "finished")
    assert run_view.summary(run) == "finished, step 10 of 20; loss 0.1000; 25% of the time waiting for data"
    loss = run_view.curve(run, {"loss": "all", **run_view.BANDS})
    assert [tuple(row) for row in loss.values][:2] == [(5, 0.2, "all"), (10, 0.1, "all")]
    assert set(loss["series"]) == {"all", "cleanest", "cleaner", "noisier"}
    figure = run_view.weights(run)
    assert figure is not None
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "down_blocks.0.attn2",
        "up_blocks.1.attn2",
    ]
    files = run_view.sample_files(run)
    damaged, gone, copied = (tmp_path / f"step-{name}.safetensors" for name in ("00000020", "00000030", "00000010 (2)"))
    damaged.write_bytes(b"half")
    shutil.copy(files[0], copied)
    decoder = Models().latent_encoder(run_view.base_model(run))
    pictures, left = run_view.validation_pictures([gone, damaged, copied, *files], decoder)
    assert [label for _, label in pictures] == [f"step 10 (2): {MARKUP}", f"step 10: {MARKUP}"]
    assert [reason.partition(": ")[0] for reason in left] == [str(gone), str(damaged)]
    assert run_view.address(run) is None


def test_a_run_whose_base_is_gone_keeps_its_curves(at_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((*_, run),) = run_view.list_runs()
    monkeypatch.setattr(run_view, "base_model", lambda run_id: "./gone")
    state, _, loss, *_, pictures = look_at(Models(), run)
    assert state.startswith("finished, step 10 of 20; loss 0.1000; 25% of the time waiting for data; no pictures: ")
    assert len(loss) > 0
    assert pictures["visible"] is False


def test_the_link_to_a_run_is_one_link_whatever_its_address_holds() -> None:
    rest = f'mlflow:5000/#/experiments/1/runs/"{MARKUP}'
    found: list[Any] = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_starttag = lambda tag, attributes: found.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(run_view.link(f"https://ada:secret@{rest}"))
    attributes = {"href": f"https://{rest}", "target": "_blank", "rel": "noopener noreferrer"}
    assert found == ["Its page on MLflow: ", ("a", attributes), f"https://{rest}"]
    assert "<a" not in run_view.link(None)
