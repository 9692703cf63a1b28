"""The commands on the registry: ``llmdiff lineage``, ``promote``, ``rollback``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from infra.servers import check_tracking
from infra.tracking.registry_names import MODEL
from llmdiff.extras import require
from pipelines.cli.bootstrap import start_engine
from pipelines.cli.console import print_json, print_table, print_values
from pipelines.cli.options import Json, options_of
from pipelines.requests.base import checked
from pipelines.requests.promote import PromoteRequest, PromotionPolicy

registry_app = typer.Typer()

Name = Annotated[str, typer.Option(help="Registered model.")]


@registry_app.command(epilog="Example: llmdiff lineage champion --json")
def lineage(
    version: Annotated[str, typer.Argument(help="Number, alias, or models:/ address of a version.")],
    name: Name = MODEL,
    as_json: Json = False,
) -> None:
    """Show what a version came from: code, models, encoder, store, and every data file."""
    require("mlflow")
    check_tracking()
    from pipelines.reports.lineage import address, chain

    found = chain(address(version, name))
    if as_json:
        print_json(found)
    else:
        print_chain(found)


@registry_app.command(
    epilog="Example: llmdiff promote --margin 0.02\n\nExample: llmdiff promote --prompts parti.tsv --metric siglip"
)
@options_of(PromotionPolicy, PromoteRequest, without=("policy",))
def promote(given: dict[str, Any], as_json: Json = False) -> None:
    """Make the candidate the champion if it is better on the same prompts and seeds, or if there is none yet."""
    require("prefect")
    request = promote_request(given)
    start_engine()
    from pipelines.flows.promote import promote_flow

    decision = promote_flow(request)
    if as_json:
        print_json(decision.model_dump())
    else:
        print(f"{'promoted' if decision.promoted else 'not promoted'}: {decision.reason}")


@registry_app.command(epilog="Example: llmdiff rollback")
def rollback(name: Name = MODEL, as_json: Json = False) -> None:
    """Make the champion before this one the champion again."""
    require("mlflow")
    check_tracking()
    from infra.tracking.registry import rollback as go_back

    left, back = go_back(name)
    if as_json:
        print_json({"name": name, "from": left, "to": back})
    else:
        print(f"champion: version {back}, before: version {left}")


def promote_request(given: dict[str, Any]) -> PromoteRequest:
    """Return the request of the options of a policy and of the rest."""
    of_policy = {name: value for name, value in given.items() if name in PromotionPolicy.model_fields}
    policy = checked(of_policy, PromotionPolicy, "promotion policy")
    others = {name: value for name, value in given.items() if name not in of_policy}
    return checked({**others, "policy": policy}, PromoteRequest, "promote")


def print_chain(found: dict[str, Any]) -> None:
    """Print the chain of a version for people, newest first."""
    facts = {key: value for key, value in found.items() if key not in ("data", "parent") and value is not None}
    print_values({**facts, "aliases": ", ".join(found["aliases"]) or "none"})
    read = found["data"]
    files = read["files"]
    print("data:", read["unknown"] if "unknown" in read else f"{len(files)} files, {read['rows']} rows")
    if files:
        print_table(["source", "hash", "rows"], files)
    if found["parent"] is not None:
        print("\ntrained on from:")
        print_chain(found["parent"])
