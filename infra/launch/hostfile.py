"""Topology of a training run: this machine, or the hosts of a hostfile."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

MASTER_PORT = 29500
LINE = re.compile(r"([A-Za-z0-9][\w.:-]*)\s+slots=(\d+)")


class Host(NamedTuple):
    """A line of a hostfile."""

    name: str
    """Name by which the other hosts, and ssh, find it."""
    slots: int
    """Number of training processes on it, one a GPU."""


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The processes of a run, and where they are started."""

    processes: int
    """Number of processes on all hosts together."""
    hosts: tuple[Host, ...] = ()
    """Hosts of the run; none of them is this machine alone."""
    rank: int | None = None
    """Index of this machine among the hosts; None starts all of them from here."""
    port: int = MASTER_PORT
    """Port on the first host, where the processes find one another."""

    def log(self, path: Path) -> Path:
        """Return this host's log file, beside the first one's."""
        return path.with_stem(f"{path.stem}-{self.rank}") if self.rank else path


def topology_of(processes: int, hostfile: str | os.PathLike[str] | None, rank: int | None, port: int) -> Topology:
    """Return the topology that is asked for; ValueError where the options contradict one another."""
    if hostfile is None:
        if rank is not None:
            raise ValueError(f"node rank {rank}: expected a hostfile with it")
        return Topology(processes=processes)
    hosts = read_hostfile(hostfile)
    total = sum(host.slots for host in hosts)
    if processes not in (1, total):
        raise ValueError(f"{hostfile}: has {total} slots, found {processes} processes: leave the processes out")
    if rank is not None and not 0 <= rank < len(hosts):
        raise ValueError(f"{hostfile}: expected a node rank from 0 to {len(hosts) - 1}, found {rank}")
    return Topology(processes=total, hosts=hosts, rank=rank, port=port)


def read_hostfile(path: str | os.PathLike[str]) -> tuple[Host, ...]:
    """Return the hosts of DeepSpeed's hostfile: lines such as ``worker-1 slots=8``; ``#`` begins a comment.

    Raises:
        OSError: there is no such file.
        ValueError: with the number of the line that is wrong.
    """
    found: dict[str, tuple[int, Host]] = {}
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None or int(match[2]) == 0:
            raise ValueError(f"{path}, line {number}: expected a host such as 'worker-1 slots=8', found {text!r}")
        host = Host(match[1], int(match[2]))
        if host.name in found:
            raise ValueError(f"{path}, line {number}: {host.name} is in line {found[host.name][0]} already")
        found[host.name] = number, host
    if not found:
        raise ValueError(f"{path}: expected a line for each host such as 'worker-1 slots=8', found none")
    return tuple(host for _, host in found.values())
