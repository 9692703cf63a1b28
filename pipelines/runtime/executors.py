"""Executors of an encode run's tasks: this process, several processes of this machine, or a Ray cluster's workers."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from llmdiff.data.remote import is_remote
from pipelines.runtime.processes import process_number, processes
from pipelines.runtime.stage import StageTask

if TYPE_CHECKING:
    from prefect_ray import RayTaskRunner

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
"""The folder of our own packages."""
DEATHS = 3
"""Number of times that a task is given to another worker after the one that ran it died."""
AHEAD = 2
"""Tasks in flight for each worker: none waits for the flow's process to hand it the next one."""
GRACE_SECONDS = 60.0
"""Seconds that the tasks of a cancelled run may take to remove what they had half-written."""
NO_MASK = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""Variable that keeps Ray from masking GPUs: a worker's next task may have another GPU, but CUDA keeps its mask."""
ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Variable that, set to 0, has Ray's servers listen on loopback alone, on Linux too."""

LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors that will be there again a minute later: a full disk, a place that can't be written to."""


class Workers(Protocol):
    """Runs a task for each of several items."""

    def __call__(
        self, task: StageTask[..., Any], job: Any, items: Iterable[T]
    ) -> Iterator[tuple[T, Callable[[], Any]]]:
        """Yield each item once ``task(job, item)`` has ended, with a function that returns the result or raises."""


@contextmanager
def workers(ray: str | None, count: int = 1) -> Iterator[Workers]:
    """Yield what runs tasks: this process, processes of this machine, or a Ray cluster; unfinished tasks end with it.

    Args:
        ray: address of the cluster as ``ray.init`` takes it; "local" starts one on this machine, for this run.
        count: how many processes of this machine, where there is no Ray; 1 is this one.

    Raises:
        ValueError: Ray is not installed, no Prefect server is known that the cluster's machines could reach, or
            processes are asked for besides Ray.
        ConnectionError: there is no cluster at the address.
    """
    if ray is not None and count > 1:
        raise ValueError(f"processes: expected 1 with ray, whose cluster says how many there are; found {count}")
    if ray is None and count == 1:
        yield here
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if ray is None:
        with temporary_settings({PREFECT_API_URL: server_url("local")}), processes(count) as in_processes:
            yield in_processes
        return
    runner = task_runner(ray)
    with temporary_settings({PREFECT_API_URL: server_url(ray)}), ExitStack() as stack:
        with chdir(ROOT):  # where it is started, Ray's workers look for modules first
            stack.enter_context(runner)
        on_ray = OnRay(runner)
        try:
            yield on_ray
        finally:
            on_ray.cancel()


def here(task: StageTask[..., Any], job: Any, items: Iterable[T]) -> Iterator[tuple[T, Callable[[], Any]]]:
    """Run tasks one after the other in this process, whose models are loaded once and not made for threads."""
    for item in items:
        yield item, partial(task, job, item)


@dataclass
class OnRay:
    """Workers of a Ray cluster: as many tasks at once as it has GPUs, or processors where it has none."""

    runner: RayTaskRunner[Any]
    waiting: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    """Items and futures by Ray's reference to the result."""

    def __call__(
        self, task: StageTask[..., Any], job: Any, items: Iterable[T]
    ) -> Iterator[tuple[T, Callable[[], Any]]]:
        import ray

        left = iter(items)
        while True:
            for item in islice(left, max(0, AHEAD * worker_count() - len(self.waiting))):
                future = self.submit(task, job, item)
                self.waiting[future.wrapped_future] = item, future
            if not self.waiting:
                return
            done, _ = ray.wait(list(self.waiting), timeout=1.0)  # a signal is dealt with in between
            for reference in done:
                item, future = self.waiting.pop(reference)
                yield item, partial(result_of, future, getattr(item, "name", task.name))

    def submit(self, task: StageTask[..., Any], job: Any, item: Any) -> Any:
        """Return the future of a new task. A worker keeps its process, and so its models, from task to task."""
        from prefect_ray.context import remote_options

        parameters = dict(inspect.signature(task.fn).bind(job, item).arguments)
        with remote_options(max_retries=DEATHS, max_calls=0, **{f"num_{unit().lower()}s": 1}):
            return self.runner.submit(task.recorded, parameters)

    def cancel(self) -> None:
        """Interrupt the tasks that have not ended, so that they clear up; end those that take too long for it."""
        import ray

        for reference in self.waiting:
            ray.cancel(reference)
        _, stuck = ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=GRACE_SECONDS)
        for reference in stuck:
            ray.cancel(reference, force=True)


def task_runner(address: str) -> RayTaskRunner[Any]:
    """Return Prefect's runner on a Ray cluster; ValueError where it is not installed."""
    if missing := [name for name in ("ray", "prefect_ray") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"ray: expected the package {missing[0]}, found none: .venv/bin/pip install 'llmdiff[ray]'")
    # The address goes past the runner, which would take "auto" for a new cluster.
    settings = {"address": address, "log_to_driver": False, "logging_level": "warning"}
    if address == "local":
        os.environ.setdefault(ON_LOOPBACK, "0")  # before Ray is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        settings |= {"include_dashboard": False}
    from prefect_ray import RayTaskRunner

    return RayTaskRunner(init_kwargs={**settings, "runtime_env": {"env_vars": {NO_MASK: "1"}}})


def server_url(address: str) -> str:
    """Return the server that tasks report to: the user's, or this process's own for workers on this machine."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if given := PREFECT_API_URL.value():
        return str(given)
    if address != "local":
        raise ValueError("ray: expected PREFECT_API_URL, a Prefect server that the cluster reaches; found none")
    with get_client(sync_client=True) as client:
        return str(client.api_url)


def unit() -> str:
    """Return the kind of resource that a worker takes of the cluster: a GPU, or a processor where there are none."""
    import ray

    return "GPU" if ray.cluster_resources().get("GPU") else "CPU"


def worker_count() -> int:
    """Return the number of workers that the cluster has by now; at least one, for it may be growing."""
    import ray

    return max(1, int(ray.cluster_resources().get(unit(), 0)))


def lent_gpu() -> int | None:
    """Return Torch's number of this task's GPU, lent by Ray or assigned to its process; None where it has none."""
    if (number := process_number()) is not None:
        return gpu_of(number)
    if "ray" not in sys.modules:  # which a worker has imported
        return None
    import ray

    lent = ray.get_runtime_context().get_accelerator_ids()["GPU"] if ray.is_initialized() else []
    if not lent:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",").index(lent[0]) if visible else int(lent[0])


def gpu_of(process: int) -> int | None:
    """Return Torch's number of a process's GPU; a run's processes share those there are. None where there is none."""
    import torch

    return process % torch.cuda.device_count() if torch.cuda.is_available() else None


def result_of(future: Any, name: str) -> Any:
    """Return a task's result; RuntimeError with its name where every worker that ran it died."""
    from ray.exceptions import RayError

    try:
        return future.result()
    except RayError as error:
        raise RuntimeError(f"{name}: {' '.join(str(error).split())}") from error


def limited(task: StageTask[..., T], limit: str | None) -> StageTask[..., T]:
    """Return the task under a concurrency limit; ValueError where the server has none of that tag."""
    if limit is None:
        return task
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(f"tag:{limit}")
        except ObjectNotFound as error:
            found = f"found no {limit!r}: `prefect concurrency-limit create {limit} <slots>` makes it"
            raise ValueError(f"limit: expected the tag of a concurrency limit, {found}") from error
    return replace(task, tags=(limit,))


def may_pass(error: BaseException) -> bool:
    """Return whether trying again may help: not where the data are at fault, nor where the disk is full."""
    return isinstance(error, (OSError, RuntimeError)) and getattr(error, "errno", None) not in LASTING


def absolute(path: str) -> str:
    """Return an absolute path, for processes that were started in another folder; a URL as it is."""
    return path if is_remote(path) else str(Path(path).absolute())


def absolute_model(name: str | None) -> str | None:
    """Return the absolute path of a model's folder; a name on the hub as it is."""
    return absolute(name) if name is not None and Path(name).exists() else name
