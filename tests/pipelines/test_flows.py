"""The flows as functions of this process, reporting to a real Prefect server."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from pipelines.requests.encode import EncodeRequest
from pipelines.requests.evaluate import EvaluateRequest
from pipelines.requests.generate import GenerateRequest
from pipelines.requests.register import RegisterRequest
from storage import EncodingStore, caption_hash
from tests.data.pictures import encoded, picture, write_parquet, write_tar
from tests.data.remote_servers import file_server
from tests.pipelines.conftest import BROKEN, EMPTY, FINE, Deployed, Server, World


def test_encode_counts_add_up_and_a_second_run_encodes_nothing(
    world: World, in_process: Server, tmp_path: Path
) -> None:
    from pipelines.flows.encode import encode_flow

    (tmp_path / "data").symlink_to(world.data)
    store = str(tmp_path / "store")
    first = encode_flow(
        EncodeRequest(data=world.data, store=store, diffusion=world.diffusion, llm=world.llm, captions=["a red circle"])
    )
    assert (first.rows, first.known, first.samples) == (FINE + BROKEN + EMPTY, 0, FINE)
    assert first.rejected == {"truncated_image": BROKEN, "empty_caption": EMPTY}
    assert [shard.source for shard in first.shards] == ["a.parquet", "folder/metadata.jsonl"]
    assert first.bytes_per_caption == 2 * 48 * first.tokens / first.captions
    opened = EncodingStore.open(store)
    assert opened.encoding(first.fingerprint, caption_hash("a red circle")).shape[1] == 48
    again = encode_flow(EncodeRequest(data=world.data, store=store, diffusion=world.diffusion, llm=world.llm))
    assert (again.known, again.samples, again.captions, again.latents) == (first.rows, 0, 0, 0)
    assert (again.store_version, again.fingerprint) == (first.store_version, first.fingerprint)
    control = encode_flow(EncodeRequest(data=world.data, store=store, diffusion=world.diffusion, encoder="base"))
    assert (control.samples, control.captions, control.latents) == (FINE, first.captions, 0)
    assert control.fingerprint != first.fingerprint


def test_a_shard_that_is_not_parquet_is_named_and_the_others_are_encoded(
    world: World, in_process: Server, tmp_path: Path
) -> None:
    from pipelines.flows.encode import encode_flow

    write_parquet(tmp_path / "data" / "fine.parquet", [(encoded(picture()), "a red circle")])
    (tmp_path / "data" / "bad.parquet").write_bytes(b"not parquet, but long enough for a footer")
    (tmp_path / "data" / "metadata.jsonl").symlink_to("gone")
    result = encode_flow(
        EncodeRequest(
            data=str(tmp_path / "data"), store=str(tmp_path / "store"), diffusion=world.diffusion, llm=world.llm
        )
    )
    assert result.samples == 1
    assert list(result.unreadable) == ["bad.parquet", "metadata.jsonl"]
    assert "expected a Parquet file" in result.unreadable["bad.parquet"]
    assert "metadata.jsonl: No such file" in result.unreadable["metadata.jsonl"]


def test_of_two_captions_one_is_asked_for_before_any_model_is_loaded(
    world: World, in_process: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.flows import encode

    (tmp_path / "a.jsonl").write_text('{"caption": "a red circle", "text": "a blue square"}')
    given = {"data": str(tmp_path / "a.jsonl"), "store": str(tmp_path / "store"), "llm": world.llm}
    with monkeypatch.context() as patch:
        patch.setattr(encode, "encode_new", None)
        with pytest.raises(
            ValueError, match=r"a\.jsonl, row 0: expected one column of captions, found caption, text: n"
        ):
            encode.encode_flow(EncodeRequest(**given))
    done = encode.encode_flow(EncodeRequest(**given, caption_columns=["text"]))
    assert EncodingStore.open(tmp_path / "store").samples()["caption"].to_pylist() == ["a blue square"]
    assert done.samples == 1


def test_a_tar_of_a_web_server_is_fetched_once_and_looked_at_by_a_retrain(
    world: World, in_process: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.flows import retrain
    from pipelines.flows.encode import encode_flow
    from pipelines.requests.retrain import RetrainRequest

    members: dict[str, bytes | str] = {}
    for i in range(3):
        members |= {f"{i}.png": encoded(picture(200, 200, seed=i)), f"{i}.txt": "a red circle"}
    size = write_tar(tmp_path / "served" / "a.tar", members).stat().st_size
    given = {"store": str(tmp_path / "store"), "diffusion": world.diffusion, "llm": world.llm}
    with file_server(tmp_path / "served") as site:
        data = f"{site.url}/a.tar?signature=secret"
        first = encode_flow(EncodeRequest(data=data, **given))
        assert (first.rows, first.samples, [shard.source for shard in first.shards]) == (3, 3, ["a.tar"])
        assert size <= site.bytes["/a.tar"] <= size + 5
        again = encode_flow(EncodeRequest(data=data, **given))
        assert (again.rows, again.known) == (3, 3)
        assert site.bytes["/a.tar"] <= size + 10

        EncodingStore.open(given["store"])
        request = RetrainRequest(data=data, **given)
        found = retrain.encode_new(request)
        with monkeypatch.context() as patch:
            patch.setattr(retrain, "encode_flow", None)  # nothing changed
            before = site.asked["/a.tar"]
            assert retrain.encode_new(request).store_version == found.store_version
            assert site.asked["/a.tar"] == before + 1  # one listing
        write_tar(tmp_path / "served" / "a.tar", {**members, "3.png": encoded(picture()), "3.txt": "a blue square"})
        assert retrain.encode_new(request).samples == 1
        site.busy["/a.tar"] = 1
        assert retrain.encode_new(request).samples == 0


def test_a_server_that_is_away_for_a_while_is_tried_again_and_a_run_cut_short_keeps_its_counts(
    world: World, in_process: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmdiff.data.remote import http
    from llmdiff.data.sources import known_row_count, open_source
    from pipelines.flows import encode
    from pipelines.runtime.encode import new_rows
    from pipelines.runtime.encode.row_counts import recall_counts

    monkeypatch.setattr(http, "PAUSE", 0.01)
    monkeypatch.setattr(new_rows, "encode_source", replace(new_rows.encode_source, delays=(0, 0)))
    for i in range(3):
        write_tar(tmp_path / "served" / f"{i}.tar", {"0.png": encoded(picture(seed=i)), "0.txt": "a red circle"})
    given = {"store": str(tmp_path / "store"), "diffusion": world.diffusion, "llm": world.llm}
    with file_server(tmp_path / "served") as site:
        data = f"{site.url}/{{0..2}}.tar"
        site.busy["/1.tar"] = 2 * http.TRIES  # while it is hashed ahead, and in its task
        site.refused = {"/2.tar"}
        with pytest.raises(ConnectionError, match=r"/2\.tar: HTTP 403"):
            encode.encode_flow(EncodeRequest(data=data, **given))
        assert EncodingStore.open(given["store"]).samples().num_rows == 2
        shards = open_source(data)
        recall_counts(shards)
        assert [known_row_count(shard) for shard in shards] == [1, 1, None]


def test_captions_alone_need_no_diffusion_model(world: World, in_process: Server, tmp_path: Path) -> None:
    from pipelines.flows.encode import encode_flow

    (tmp_path / "a.tsv").write_text("Prompt\tCategory\na red circle\tx\na blue square\ty\na red circle\tz\n")
    store = str(tmp_path / "store")
    first = encode_flow(EncodeRequest(data=str(tmp_path / "a.tsv"), store=store, llm=world.llm))
    assert (first.rows, first.samples, first.captions, first.latents) == (3, 2, 2, 0)
    assert (first.known, first.repeated) == (1, 1)
    assert [kind["kind"] for kind in EncodingStore.open(store).fingerprints().values()] == ["llm"]
    again = encode_flow(EncodeRequest(data=str(tmp_path / "a.tsv"), store=store, llm=world.llm))
    assert (again.known, again.samples, again.captions) == (3, 0, 0)
    assert again.store_version == first.store_version
    with pytest.raises(ValueError, match="data: expected pictures for the autoencoder of .*, found captions alone"):
        encode_flow(EncodeRequest(data=str(tmp_path / "a.tsv"), store=store, diffusion=world.diffusion, llm=world.llm))


def test_pictures_without_a_diffusion_model_are_an_error_before_any_is_loaded(
    world: World, in_process: Server, tmp_path: Path
) -> None:
    from pipelines.flows.encode import encode_flow

    store = tmp_path / "store"
    with pytest.raises(ValueError, match="expected the folder or name of a Stable Diffusion model, for the data have"):
        encode_flow(EncodeRequest(data=world.data, store=str(store), llm=str(tmp_path / "no LLM here")))
    (tmp_path / "a.txt").write_text("a red circle")
    with pytest.raises(ValueError, match='expected the folder or name of the model that encoder "base" is of'):
        encode_flow(EncodeRequest(data=str(tmp_path / "a.txt"), store=str(store), encoder="base"))
    assert not store.exists()


def test_the_smallest_side_can_be_chosen(world: World, in_process: Server, tmp_path: Path) -> None:
    from pipelines.flows.encode import encode_flow

    data = write_parquet(tmp_path / "a.parquet", [(encoded(picture(40, 40)), "a"), (encoded(picture(39, 99)), "b")])
    result = encode_flow(
        EncodeRequest(
            data=str(data), store=str(tmp_path / "store"), diffusion=world.diffusion, llm=world.llm, min_side=40
        )
    )
    assert (result.samples, result.rejected) == (1, {"too_small": 1})


def test_register_then_generate_from_the_registry(
    deployed: Deployed, world: World, in_process: Server, tmp_path: Path
) -> None:
    from pipelines.flows.generate import generate_flow
    from pipelines.flows.register import register_flow

    registered = register_flow(RegisterRequest(adapter=str(deployed.output / "adapter"), llm=world.llm))
    assert registered.uri == "models:/llmdiff-adapter@candidate"
    drawn = [
        generate_flow(
            GenerateRequest(prompts=["a red circle", "a blue square"], output=str(tmp_path / name), steps=2, seed=3)
        )
        for name in "ab"
    ]
    pictures = {
        (run.output[-1], kind): np.stack(
            [np.asarray(Image.open(Path(run.output) / kind / f"000{i}.png")) for i in (0, 1)]
        )
        for run in drawn
        for kind in ("base", "adapter")
    }
    np.testing.assert_array_equal(pictures["a", "base"], pictures["b", "base"])
    np.testing.assert_array_equal(pictures["a", "adapter"], pictures["b", "adapter"])
    assert (pictures["a", "base"] != pictures["a", "adapter"]).any()
    assert (pictures["a", "base"][0] != pictures["a", "base"][1]).any()
    assert Image.open(drawn[0].grid).width > 2 * 192
    without = StableDiffusionPipeline.from_pretrained(world.diffusion, safety_checker=None, dtype=torch.float32)
    without.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "guidance_scale": 5.0, "negative_prompt": ""}
    (plain,) = without("a red circle", generator=torch.Generator().manual_seed(3), **options).images
    assert np.abs(np.asarray(plain).astype(int) - pictures["a", "base"][0]).max() <= 1  # drawn in another batch


def test_evaluate_gives_shares_for_every_wording_with_and_without_the_adapter(
    deployed: Deployed, world: World, in_process: Server, tmp_path: Path
) -> None:
    from pipelines.flows.evaluate import evaluate_flow

    result = evaluate_flow(
        EvaluateRequest(
            adapter=str(deployed.output / "adapter"), llm=world.llm, output=str(tmp_path), scenes=2, steps=1
        )
    )
    assert (tmp_path / "report.html").is_file()
    assert result.report["pictures"] == 6
    assert set(result.report["columns"]) == {"colour", "binding", "relation", "count"}
    for models in result.report["scores"].values():
        for entry in models.values():
            assert set(entry["by_category"]) == {"template", "natural", "unseen_wording"}
            assert all(0 <= part["mean"] <= 1 for part in entry["by_category"].values())
    assert set(result.report["gap_recovered"]["base"]) == {"natural", "unseen_wording"}
    assert "too few prompts on 4" in result.report["summary"][0]


def test_a_shard_is_tried_again_but_not_on_a_full_disk(
    world: World, in_process: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.flows import encode
    from pipelines.runtime.encode import new_rows

    encode_shard, faults = new_rows.encode_shard, [errno.EIO, errno.ETIMEDOUT]

    def faulty(*arguments: Any, **options: Any) -> Any:
        if faults:
            raise OSError(faults.pop(), "a fault")
        return encode_shard(*arguments, **options)

    monkeypatch.setattr(new_rows, "encode_shard", faulty)
    monkeypatch.setattr(new_rows, "encode_source", replace(new_rows.encode_source, delays=(0, 0)))
    (tmp_path / "a.txt").write_text("a red circle\na blue square\n")
    assert (
        encode.encode_flow(
            EncodeRequest(data=str(tmp_path / "a.txt"), store=str(tmp_path / "a"), llm=world.llm)
        ).samples
        == 2
    )
    assert faults == []
    faults += [errno.ENOSPC, errno.ENOSPC]
    with pytest.raises(OSError, match="a fault"):
        encode.encode_flow(EncodeRequest(data=str(tmp_path / "a.txt"), store=str(tmp_path / "b"), llm=world.llm))
    assert len(faults) == 1


def test_the_run_that_one_watches_tells_of_its_parts(in_process: Server) -> None:
    from prefect import flow, runtime

    from pipelines.runtime.progress import advance, progress

    @flow(name="a-part")
    def part() -> None:
        with progress("score", 2, "picture"):
            advance(2)

    @flow(name="all-of-it")
    def whole() -> str:
        part()
        return str(runtime.flow_run.id)

    told: list[logging.LogRecord] = []
    listener = logging.Handler()
    listener.emit = told.append  # type: ignore[method-assign]
    logging.getLogger("prefect.flow_runs").addHandler(listener)
    try:
        run = whole()
    finally:
        logging.getLogger("prefect.flow_runs").removeHandler(listener)
    lines = {getattr(record, "flow_run_id", None): record.getMessage() for record in told if "score" in record.msg}
    assert len(lines) == 2, "one of the part, one of the whole"
    assert lines[run].startswith("score: 2 of 2 pictures (100 %)")
