"""A stage of the pipeline out of a function of one typed request, and its parts: a flow and tasks, where recorded.

Deployments and Prefect's pages know flat parameters, and read them from a function's signature and docstring. Both are
made here from the request's fields, so that no argument is spelled twice. Prefect is imported where a run is recorded
alone; elsewhere stages and their parts are plain functions.
"""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, ParamSpec, TypeVar, get_type_hints

from infra.engine import tie_server
from pipelines.requests.base import CommandLine, Request, checked, help_of
from pipelines.runtime.recording import in_a_run, recorded, run_logger

if TYPE_CHECKING:
    from prefect import Flow, Task

Asked = TypeVar("Asked", bound=Request)
Result = TypeVar("Result")
Given = ParamSpec("Given")


@dataclass(frozen=True)
class Stage(Generic[Asked, Result]):
    """A stage, called with its request."""

    name: str
    function: Callable[[Asked], Result]
    request: type[Asked]
    run_name: str | None = None
    needs_engine: Callable[[Any], bool] = lambda request: False
    """Whether a request can't do without Prefect, which is then started for it where no server is set."""

    def __call__(self, request: Asked) -> Result:
        """Run the stage: as a flow, which Prefect records, where `recorded` says so or the request needs it."""
        if recorded() or self.needs_engine(request):
            tie_server()
            return self.flow(**dict(request))
        return self.function(request)

    @cached_property
    def flow(self) -> Flow[..., Result]:
        """The flow, which deployments run: called with the request's fields, which its form has one by one."""
        from prefect import flow

        @wraps(self.function)
        def run(**parameters: Any) -> Result:
            return self.function(checked(parameters, self.request, self.name))

        text = inspect.getdoc(self.function) or ""
        run.__signature__ = signature_of(self.request)  # type: ignore[attr-defined]
        run.__doc__ = f"{text}\n\n{arguments_text(self.request)}"
        version = hashlib.sha256(Path(inspect.getfile(self.function)).read_bytes()).hexdigest()[:32]
        return flow(name=self.name, description=text, flow_run_name=self.run_name, version=version)(run)


def stage(
    name: str, run_name: str | None = None, needs_engine: Callable[[Any], bool] = lambda request: False
) -> Callable[[Callable[[Asked], Result]], Stage[Asked, Result]]:
    """Return a decorator that makes a stage of a function of one request.

    Args:
        name: of the flow.
        run_name: of its runs, a template of the request's fields; by default Prefect makes one up.
        needs_engine: see `Stage`.
    """

    def make(function: Callable[[Asked], Result]) -> Stage[Asked, Result]:
        request: type[Asked] = get_type_hints(function)[next(iter(inspect.signature(function).parameters))]
        return Stage(name, function, request, run_name, needs_engine)

    return make


@dataclass(frozen=True)
class StageTask(Generic[Given, Result]):
    """A part of a stage: a task in a recorded run, else the function alone, tried again in the same way."""

    fn: Callable[Given, Result]
    name: str
    run_name: str | None = None
    """Template of its runs' names, filled with its arguments."""
    delays: tuple[float, ...] = ()
    """Seconds to wait before each further attempt."""
    may_pass: Callable[[BaseException], bool] = lambda error: True
    """Whether trying again may help after an error."""
    tags: tuple[str, ...] = ()
    """Tags of Prefect's concurrency limits."""

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        """Run the function once, and again after each of the `delays` where an error may pass."""
        if in_a_run():
            return self.recorded(*args, **kwargs)
        for seconds in self.delays:
            try:
                return self.fn(*args, **kwargs)
            except Exception as error:
                if not self.may_pass(error):
                    raise
                run_logger().warning("%s: %s; tried again in %g s", self.name, error, seconds)
            time.sleep(seconds)
        return self.fn(*args, **kwargs)

    @cached_property
    def recorded(self) -> Task[Given, Result]:
        """The task, which no cache stands in for: what is done already, the stages find by themselves."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        def may_pass(task: Any, run: Any, state: Any) -> bool:  # Prefect asks nothing else than a plain function
            return self.may_pass(state.data)

        made = task(
            name=self.name,
            task_run_name=self.run_name,
            tags=self.tags,
            cache_policy=NO_CACHE,
            retries=len(self.delays),
            retry_delay_seconds=list(self.delays) or None,
            retry_condition_fn=may_pass,
        )
        return made(self.fn)


def task(
    name: str,
    run_name: str | None = None,
    delays: tuple[float, ...] = (),
    may_pass: Callable[[BaseException], bool] = lambda error: True,
) -> Callable[[Callable[Given, Result]], StageTask[Given, Result]]:
    """Return a decorator that makes a part of a stage; see `StageTask`."""
    return lambda function: StageTask(function, name, run_name, delays, may_pass)


def signature_of(request: type[Request]) -> inspect.Signature:
    """Return the signature of a function whose keyword arguments are a request's fields, with their bounds."""
    parameters = []
    for name, info in request.model_fields.items():
        bounds = [each for each in info.metadata if not isinstance(each, CommandLine)]
        kind: Any = Annotated[info.annotation, *bounds] if bounds else info.annotation
        default = inspect.Parameter.empty if info.is_required() else info.get_default(call_default_factory=True)
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    return inspect.Signature(parameters)


def arguments_text(request: type[Request]) -> str:
    """Return a request's fields as the ``Args:`` section of a docstring."""
    return "\n".join(["Args:", *(f"    {name}: {help_of(info)}" for name, info in request.model_fields.items())])
