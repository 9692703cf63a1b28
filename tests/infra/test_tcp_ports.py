"""A port that is chosen for a server stays free for it: between the two, seconds pass."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from llmdiff.process import tcp_ports
from llmdiff.process.tcp_ports import free_port, is_free

CHOOSING = "from llmdiff.process.tcp_ports import free_port; print(free_port(), flush=True); input()"


@pytest.mark.process
def test_a_port_is_chosen_once_while_its_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", CHOOSING], **pipes) as child:  # type: ignore[call-overload]
        port = int(child.stdout.readline())
        monkeypatch.setattr(tcp_ports, "CHOSEN_FROM", range(port, port + 1))
        monkeypatch.setattr(tcp_ports, "TRIES", 1)
        with pytest.raises(OSError, match=f"expected a free TCP port from {port} to {port}, found none"):
            free_port()
        assert is_free(port)
        with socket.create_server(("127.0.0.1", port)):
            assert not is_free(port)
        child.communicate("\n")
    assert free_port() == port


@pytest.mark.process
def test_training_processes_meet_at_a_port_that_is_kept() -> None:
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", free_port(), 1, is_master=True)
    store.set("rank", "0")
    assert store.get("rank") == b"0"
