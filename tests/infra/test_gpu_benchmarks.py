"""The benchmarks of a GPU, whole and tiny on a CPU, with none of the packages that the other machine lacks."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LACKING = ["crc32c", "deepspeed", "deltalake", "mlflow", "obstore", "prefect", "pyarrow", "zarr", "zarrs"]
PARTS = ["kernel", "noise", "encode phi-1.5", "encode vicuna-7b", "train", "adapter", "online", "autoencoder"]
PARTS += ["latency", "train, compiled", "train, channels_last", "encode, compiled"]  # `compare` is a test of its own
RUN = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split()))
sys.path.insert(0, "benchmarks")
sys.argv = ["benchmarks/gpu.py", *sys.argv[2:]]
runpy.run_path("benchmarks/gpu.py", run_name="__main__")
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.process
def test_every_part_runs_without_the_projects_other_packages(tmp_path: Path) -> None:
    arguments = ["--here", "--quick", "--results", str(tmp_path), "--part", *PARTS]
    command = [sys.executable, "-c", RUN, " ".join(LACKING), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    states = [(row["part"], row["state"]) for row in rows(tmp_path / "gpu.csv")]
    assert states == [(part, state) for part in PARTS for state in ("started", "done")], done.stderr
    assert len(rows(tmp_path / "langevin_kernel.csv")) == 4 + 3
    assert {row["prompts"] for row in rows(tmp_path / "encode.csv")} == {"captions made of drawn scenes"}
    assert sum(row["what"] == "images a second" for row in rows(tmp_path / "train.csv")) == 4
    errors = {row["dtype"]: float(row["error"]) for row in rows(tmp_path / "autoencoder.csv")}
    assert errors["float32"] == 0 < errors["float16"] < errors["bfloat16"] < 0.1
    assert {row["what"] for row in rows(tmp_path / "latency.csv")} >= {"CLIP encodes", "base step", "adapter step"}


def test_what_travels_has_tested_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import pack_gpu

    pins = pack_gpu.pins((ROOT / "constraints.txt").read_text())
    assert [pin.partition("==")[0].replace("_", "-") for pin in pins] == list(pack_gpu.PACKAGES)
    with pytest.raises(ValueError, match="expected pins of pydantic, pydantic-core"):
        pack_gpu.pins("diffusers==1\n")


def test_a_part_is_done_where_it_ended_well_on_this_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    for part, state in [("kernel", "started"), ("kernel", "done"), ("noise", "started"), ("online", "failed")]:
        gpu.note(part, state, tmp_path, 1.0, "RuntimeError: out\nof memory" if state == "failed" else "")
    assert gpu.done(tmp_path) == {"kernel"}
    (tmp_path / "gpu.csv").write_text((tmp_path / "gpu.csv").read_text().replace("thread(s)", "threads of another"))
    assert gpu.done(tmp_path) == set()
    assert [row["error"] for row in gpu.states(tmp_path)][-1] == "RuntimeError: out of memory"
