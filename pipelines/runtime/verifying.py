"""Executors of a store's verification: this process, several of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from storage.io.paths import StorePath
from storage.maintenance.check_shard import Checked, Stored, check_in_processes, check_shard, check_shards

Check = Callable[[StorePath, Iterable[Stored]], Iterator[Checked]]
"""Function that checks shards of the store at a path, in any order."""


def checking(processes: int = 1, ray: str | None = None) -> Check:
    """Return the function that checks shards where the caller asked for it: here, in processes, or on a cluster.

    Args:
        processes: how many of this machine, where there is no Ray.
        ray: address of a cluster, as ``ray.init`` takes it; "local" starts one on this machine.

    Raises:
        ValueError: processes are asked for besides Ray.
    """
    if ray is not None and processes > 1:
        raise ValueError(f"processes: expected 1 with ray, whose cluster says how many there are; found {processes}")
    if ray is not None:
        return partial(check_on_ray, ray)
    return partial(check_in_processes, processes) if processes > 1 else check_shards


def check_on_ray(address: str, root: StorePath, shards: Iterable[Stored]) -> Iterator[Checked]:
    """Check some shards on the workers of a cluster, which reach the store under the same path."""
    from pipelines.runtime.executors import AHEAD, DEATHS, task_runner, worker_count

    with task_runner(address):
        import ray

        check = ray.remote(max_retries=DEATHS, num_cpus=1)(check_shard)
        left = iter(shards)
        waiting: list[object] = []
        while True:
            waiting += [check.remote(root, each) for each in islice(left, AHEAD * worker_count() - len(waiting))]
            if not waiting:
                return
            done, waiting = ray.wait(waiting, timeout=1.0)
            yield from ray.get(done)
