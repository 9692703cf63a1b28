from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra import environment
from infra.launch.local import free_port
from infra.tracking import run as tracking
from infra.tracking.run import RowReader, WarningReader, client, numbers, tracked_run
from llmdiff.training.metrics import truncated

pytestmark = pytest.mark.usefixtures("tracking")


def test_a_run_carries_settings_metrics_and_files(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 1 / step, "weights": [{"layer": "down.0", "new": 0.1}]} for step in (1, 2)]
    (tmp_path / "note.txt").write_text("x")
    with tracked_run("a run", {"steps": 2, "adapter": {"new_weight": 0.1}}, {"store_version": "3"}) as run:
        run.follow(rows)
        run.keep(tmp_path / "note.txt", "notes")
    found = client().get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"steps": "2", "adapter.new_weight": "0.1"}
    assert found.data.tags["store_version"] == "3"
    assert found.data.metrics == {"loss": 0.5, "weights.down.0.new": 0.1}
    assert [point.step for point in client().get_metric_history(run.run_id, "loss")] == [1, 2]
    assert (environment.home() / "mlartifacts" / run.run_id / "artifacts/notes/note.txt").read_text() == "x"


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_that_ends_early_says_how(error: type[BaseException], status: str) -> None:
    with pytest.raises(error), tracked_run("a run", {}, {}) as run:
        raise error
    assert client().get_run(run.run_id).info.status == status


def test_metrics_wait_for_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "TRY_AGAIN_AFTER", 0.0)
    with tracked_run("a run", {}, {}) as run:
        there, run.api = run.api, MlflowClient(f"http://127.0.0.1:{free_port()}")
        run.follow([{"step": 1, "loss": 3.0}])
        run.follow([{"step": 2, "loss": 2.0}])
        run.api = there
        run.follow([{"step": 3, "loss": 1.0}])
    assert [point.step for point in client().get_metric_history(run.run_id, "loss")] == [1, 2, 3]


def test_a_server_that_stays_away_leaves_a_run_that_is_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)
    ids = []

    def cut_off() -> None:
        with tracked_run("a run", {}, {}) as run:
            ids.append(run.run_id)
            run.api = MlflowClient(f"http://127.0.0.1:{free_port()}")
            run.follow([{"step": 1, "loss": 3.0}])

    with pytest.raises(TimeoutError, match="run it again to send it"):
        cut_off()
    with tracked_run("a run", {}, {}) as again:
        pass
    assert [client().get_run(run).info.status for run in (ids[0], again.run_id)] == ["FAILED", "FINISHED"]


def test_what_a_killed_process_left_is_marked_by_the_next_run() -> None:
    with tracked_run("living", {}, {}) as living:
        api = client()
        experiment = api.get_run(living.run_id).info.experiment_id
        gone, other = (api.create_run(experiment) for _ in range(2))
        api.set_tag(gone.info.run_id, tracking.PROCESS, f"{socket.gethostname()}:{os.getpid()} another boot 1")
        api.set_tag(other.info.run_id, tracking.PROCESS, f"another-machine:{os.getpid()} another boot 1")
        with tracked_run("next", {}, {}):
            states = [api.get_run(run).info.status for run in (living.run_id, gone.info.run_id, other.info.run_id)]
    assert states == ["RUNNING", "KILLED", "RUNNING"]


def test_a_login_in_the_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:open-sesame@127.0.0.1:5000")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as refused:
        client()
    assert "open-sesame" not in str(refused.value)


def test_numbers_of_a_row() -> None:
    row = {
        "a": 1,
        "b": {"c": 2.5},
        "bands": [0.5, None],
        "weights": [{"layer": "x", "new": 3}],
        "no": "text",
        "t": True,
    }
    assert dict(numbers(row)) == {"a": 1.0, "b.c": 2.5, "bands.0": 0.5, "weights.x.new": 3.0}


def test_a_growing_file_is_read_in_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = RowReader(path)
    assert reader.read() == []
    with path.open("w") as file:
        file.write('{"step": 1}\n{"ste')
        file.flush()
        assert reader.read() == [{"step": 1}]
        file.write('p": 2}\n')
    assert reader.read() == [{"step": 2}]
    part = tmp_path / "metrics.part"
    part.write_text("".join(json.dumps({"step": step, "again": True}) + "\n" for step in range(1, 4)))
    part.replace(path)  # a resumed run goes on before its last row, and has written more rows than there were
    assert reader.read() == [{"step": 3, "again": True}]
    assert reader.read() == []


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    """A power loss leaves such lines; a run that goes on leaves them out of its log."""
    path = tmp_path / "metrics.jsonl"
    lines = [b'{"step": 1}', b"\0\0\0", b'{"step', b"[1]", b'{"step": "2"}', b'{"step": true}', b"\xff", b"[" * 100_000]
    path.write_bytes(b"\n".join([*lines, b'{"step": 3}', b'{"step": 4}', b""]))
    assert RowReader(path).read() == [{"step": 1}, {"step": 3}, {"step": 4}]
    truncated(path, 3).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_new_warnings_are_found_in_a_log_with_a_progress_bar(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("training warning: of an earlier run\n")
    reader = WarningReader(log)
    with log.open("a") as file:
        file.write("\rtrain:  10%|#   training warning: text ignored: at step 500\nother line\ntraining warn")
    assert reader.read() == ["text ignored: at step 500"]
    with log.open("a") as file:
        file.write("ing: NaN encodings: 1 of 4\n")
    assert reader.read() == ["NaN encodings: 1 of 4"]
    assert WarningReader(tmp_path / "none").read() == []
