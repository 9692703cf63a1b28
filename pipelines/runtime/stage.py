"""A Prefect flow out of a function of one typed request.

Deployments and Prefect's pages know flat parameters, and read them from a function's signature and docstring. Both are
made here from the request's fields, so that no argument is spelled twice.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from prefect import Flow, flow

from pipelines.requests.base import CommandLine, Request, checked, help_of

Asked = TypeVar("Asked", bound=Request)
Result = TypeVar("Result")


def stage(name: str, run_name: str | None = None) -> Callable[[Callable[[Asked], Result]], Flow[..., Result]]:
    """Return a decorator that makes a flow of a function of one request.

    The flow takes the request's fields as keyword arguments: ``encode_flow(**dict(request))``.

    Args:
        name: of the flow.
        run_name: of its runs, a template of the request's fields; by default Prefect makes one up.
    """

    def make(function: Callable[[Asked], Result]) -> Flow[..., Result]:
        request: type[Asked] = get_type_hints(function)[next(iter(inspect.signature(function).parameters))]

        @wraps(function)
        def run(**parameters: Any) -> Result:
            return function(checked(parameters, request, name))

        run.__signature__ = signature_of(request)  # type: ignore[attr-defined]
        run.__doc__ = f"{inspect.getdoc(function)}\n\n{arguments_text(request)}"
        version = hashlib.sha256(Path(inspect.getfile(function)).read_bytes()).hexdigest()[:32]
        made = flow(name=name, description=inspect.getdoc(function), flow_run_name=run_name, version=version)
        return made(run)

    return make


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
