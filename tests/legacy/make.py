"""Writes ``written.tar.xz`` and ``expected.json``: one of everything that the version before the move of files wrote.

It is kept to show how they were made, and has to be run at that version, commit 6c1ba2a, for it calls its modules:

    git worktree add ../before 6c1ba2a && cd ../before && make check
    PYTHONPATH=. .venv/bin/python <this folder>/make.py

The tests need no other things than those two files, and never run this.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

HERE, CHECKOUT = Path(__file__).parent, Path.cwd()
ROOT_MARK, HOST_MARK = b"@ROOT@", b"@HOST@"
SETTINGS: dict[str, Any] = {
    "steps": 24,
    "batch_size": 4,
    "warmup": 3,
    "learning_rate": 0.002,
    "ema_decay": 0.9,
    "threads": 1,
    "log_every": 1,
    "checkpoint_every": 8,
    "keep_checkpoints": 1,
    "sample_every": 8,
    "validation_prompts": "['a red circle']",
    "validation_steps": 1,
}
PROMOTION = ["--metric", "colour", "--scenes", "2", "--steps", "1", "--json"]

DEAD_WRITER = """
import os, signal, sys
import numpy as np
from storage import EncodingStore, caption_hash
store = EncodingStore.open("store")
with store.writer("half-written", sys.argv[1]) as writer:
    writer.add_encoding(caption_hash("never committed"), np.ones((3, 48), np.uint16))
    for array in writer._arrays.values():
        array.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
DEAD_HOLDER = """
import os, signal
from storage import EncodingStore
from storage.turns import turn
with turn(EncodingStore.open("store"), "retrain") as holder:
    assert holder is None
    os.kill(os.getpid(), signal.SIGKILL)
"""


def main() -> None:
    """Makes everything in a temporary folder, as a user would by commands, and packs it."""
    root = Path("/tmp/written")  # which the store's Delta logs name, and their checksums cover
    root.mkdir()
    os.chdir(root)
    os.environ.update(LLMDIFF_HOME=str(root / "runs"), PREFECT_HOME=str(root / "prefect"), OMP_NUM_THREADS="1")
    make_models()
    make_store()
    finished = make_run()
    more_of_the_store()
    kill_a_run(finished)
    decisions = make_versions()
    leave_what_the_dead_leave()
    expected = {"promotions": decisions, **read_back(finished)}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    pack(root)
    shutil.rmtree(root)


def command(*arguments: str) -> str:
    """Run one `llmdiff` command in this process: the engine of flows starts once."""
    from pipelines.cli import main as llmdiff

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            llmdiff(list(arguments))
        except SystemExit as end:
            if end.code:
                raise
    print(arguments[0], printed.getvalue())
    return printed.getvalue()


def make_models() -> None:
    """A tiny base and LLM, their weights rounded to a few values each, which compress well."""
    import torch
    from diffusers import StableDiffusionPipeline

    from tests.adapter import tiny
    from tests.encoder import tiny_models

    def rounded(model: Any) -> Any:
        with torch.no_grad():
            for weights in model.parameters():
                step = weights.std().clamp(min=1e-3) / 2 if weights.numel() > 1 else 1e-3
                weights.copy_((weights / step).round() * step)
        return model

    tokenizer = tiny.clip_tokenizer()
    unet = rounded(tiny.unet(block_out_channels=(8, 16), norm_num_groups=4))
    parts = (rounded(tiny.vae()), rounded(tiny.text_encoder(tokenizer)), tokenizer, unet)
    schedule = tiny.schedule("v_prediction")
    StableDiffusionPipeline(*parts, schedule, None, None, requires_safety_checker=False).save_pretrained("base")
    torch.manual_seed(0)
    rounded(tiny_models.build("llama")).save_pretrained("llm")
    tiny_models.tokenizer().save_pretrained("llm")


def make_store() -> None:
    """Three commits and more: a file, a second one, and both again under the base's own encoder."""
    write_data("a", range(12), broken=True)
    encode("--llm", "llm")
    write_data("b", range(12, 20))
    encode("--llm", "llm")
    encode("--encoder", "base")


def more_of_the_store() -> None:
    """A version after the one that the runs are pinned to."""
    write_data("c", range(20, 24))
    encode("--llm", "llm")


def encode(*arguments: str) -> None:
    command("encode", "--data", "data", "--store", "store", "--diffusion", "base", "--size", "64", *arguments)


def write_data(name: str, numbers: range, broken: bool = False) -> None:
    from tests.data.pictures import encoded, picture, write_parquet
    from tests.encoder.tiny_models import WORDS

    words = WORDS[3:]
    rows = [(encoded(picture(16, 16, seed=i)), f"a {words[i % 8]} {words[-1 - i % 7]}") for i in numbers]
    if numbers.start == 0:
        rows[0] = (rows[0][0], "a red circle")
    bad = [(rows[0][0][:100], "a broken picture"), (rows[0][0], "")]
    write_parquet(Path("data") / f"{name}.parquet", rows + bad * broken)


def train(*arguments: str, **changes: Any) -> str:
    settings = [f"{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    fixed = ["--store", "store", "--diffusion", "base", "--llm", "llm"]
    return command("train", *fixed, *arguments, *(part for each in settings for part in ("--set", each)))


def make_run() -> Path:
    """A run from start to end, registered as version 1."""
    train()
    (folder,) = (Path("runs") / "train").iterdir()
    return folder


def kill_a_run(finished: Path) -> None:
    """Moves the finished run aside, and leaves one of the same settings that was killed in the middle."""
    finished.rename("finished")
    finished.mkdir()
    shutil.copy("finished/request.json", finished)
    worker = [sys.executable, "-m", "llmdiff.training.worker", "--config", str(finished / "request.json")]
    metrics = finished / "metrics.jsonl"
    with subprocess.Popen(worker, env={**os.environ, "DS_ACCELERATOR": "cpu"}) as process:
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < 10:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert not (finished / "adapter").exists()
    print("killed after step", metrics.read_bytes().count(b"\n"), sorted(p.name for p in finished.rglob("step-*")))


def make_versions() -> list[Any]:
    """Version 1 becomes the champion; version 2, trained on from it, is the candidate and was decided on."""
    decisions = [json.loads(command("promote", *PROMOTION))]
    train("--output", "second", steps=2, sample_every=2, start_from="models:/llmdiff-adapter@champion")
    return [*decisions, json.loads(command("promote", *PROMOTION))]


def leave_what_the_dead_leave() -> None:
    """A writer and the holder of a job, each killed at work."""
    from storage import EncodingStore

    (llm,) = (key for key, about in EncodingStore.open("store").fingerprints().items() if about["kind"] == "llm")
    for code in (DEAD_WRITER, DEAD_HOLDER):
        assert subprocess.run([sys.executable, "-c", code, llm]).returncode == -signal.SIGKILL


def read_back(run: Path) -> dict[str, Any]:
    """What the tests compare with, read by the version that wrote it."""
    from PIL import Image
    from storage.reader import EncodingDataset

    from llmdiff import LLMAdapter, load_adapter
    from storage import EncodingStore

    spec = importlib.util.spec_from_file_location("contents", HERE / "contents.py")
    contents = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contents)
    newest = EncodingStore.open("store")
    versions = [contents.store_contents(EncodingStore.open("store", v)) for v in range(newest.version + 1)]
    kinds = {about["kind"]: key for key, about in newest.fingerprints().items()}
    rows = [json.loads(line) for line in Path("finished/metrics.jsonl").read_text().splitlines()]
    request = json.loads((run / "request.json").read_text())
    dataset = EncodingDataset("store", request["store_version"], kinds["llm"], 4, seed=0)
    base, llm = Path("base"), Path("llm")
    picture = contents.draw(load_adapter, Path("finished/adapter"), base, llm)
    Image.fromarray(picture).save(HERE / "expected.png", optimize=True)
    lineage = json.loads(command("lineage", "candidate", "--json"))
    return {
        "settings": {key: str(value) for key, value in SETTINGS.items()},
        "retrain": retraining(),
        "promotion": PROMOTION,
        "run": run.name,
        "trained_on": request["store_version"],
        "fingerprints": kinds,
        "versions": versions,
        "batches": contents.batch_digests(dataset),
        "losses": [row["loss"] for row in rows],
        "prediction": contents.prediction(LLMAdapter, Path("finished/adapter"), base),
        "drawn": drawn_path(contents),
        "lineage": {key: lineage[key] for key in ("version", "aliases", "encoder", "store", "data", "parent")},
    }


def drawn_path(contents: Any) -> str:
    """The picture's name, which holds the versions of libraries too: here all are "1"."""
    from pipelines.contenders import identity

    from llmdiff.evaluation import pictures

    pictures.version = lambda name: "1"
    return contents.drawn_path(pictures, identity("base"))


def retraining() -> dict[str, Any]:
    """Parameters of retraining, as `llmdiff shapes --retrain` writes them, with the others that a user may add."""
    command("shapes", "shapes", "--pictures", "1", "--retrain", "retrain.json")
    written = json.loads(Path("retrain.json").read_text())
    written |= {"data": "data", "store": "store", "diffusion": "base", "llm": "llm"}
    more = {"encoder": "llm", "name": "grown", "ray": None, "start": "champion", "wait": 0.0}
    return {**written, **more, "growing": {"settle": 1.0}, "rule": {"metric": "colour", "margin": 0.02}}


def pack(root: Path) -> None:
    """Everything but plots and Prefect's records, with marks in place of this folder's and this host's name."""
    with sqlite3.connect(root / "runs" / "mlflow.db") as database:
        (root / "mlflow.sql").write_text("\n".join(database.iterdump()) + "\n")
    for name in ("prefect", "second", "shapes", "runs/adapters"):
        shutil.rmtree(root / name)
    for pattern in ("runs/mlflow.db*", "**/*.png", "**/train*.log", "retrain.json"):
        for path in root.glob(pattern):
            path.unlink()
    host = socket.gethostname().encode()
    marks = {str(root).encode(): ROOT_MARK, b'"host": "%s"' % host: b'"host": "%s"' % HOST_MARK}
    marks |= {str(CHECKOUT).encode(): b"/checkout"}  # an MLflow model says where its code was
    marks |= {b"'%s:" % host: b"'%s:" % HOST_MARK}  # of an MLflow run's process
    for path in filter(Path.is_file, root.rglob("*")):
        before = after = path.read_bytes()
        for name, mark in marks.items():
            after = after.replace(name, mark)
        if after != before and path.parent.name != "_delta_log":
            print("marked", path.relative_to(root))
            after.decode()  # text alone
            path.write_bytes(after)
    with tarfile.open(HERE / "written.tar.xz", "w:xz", preset=9) as archive:
        for path in sorted(root.iterdir()):
            archive.add(path, path.name, filter=plain)
    print((HERE / "written.tar.xz").stat().st_size, "bytes")


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without whose it was and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
