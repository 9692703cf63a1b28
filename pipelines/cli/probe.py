"""The command ``llmdiff probe``: which reading of an LLM, and which template, before anything is encoded or trained."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import typer

from infra.servers import check_proxies
from pipelines.cli.bootstrap import encoder_config
from pipelines.cli.console import print_json, print_table
from pipelines.cli.options import Config, Json, Set, options_of
from pipelines.requests.base import checked
from pipelines.requests.probe import ProbeRequest

if TYPE_CHECKING:
    from llmdiff.probe.fit import Figures
    from llmdiff.probe.probing import ProbeResult, Recommendation

probe_app = typer.Typer()


@probe_app.command(
    epilog="Example: llmdiff probe --llm HuggingFaceTB/SmolLM2-135M-Instruct --diffusion <SD 1.5>\n\n"
    "Example: llmdiff probe --llm microsoft/phi-1_5 --reading layer:16 --reading score --template '{caption}' "
    "--template 'Describe the picture: {caption}. It shows'\n\n"
    "Example: llmdiff probe --llm HuggingFaceTB/SmolLM2-135M-Instruct --template chat --set template_keep=after"
)
@options_of(ProbeRequest, without=("settings",))
def probe(
    given: dict[str, Any],
    config: Config = None,
    set_: Set = [],  # noqa: B006 typer copies it
    as_json: Json = False,
) -> None:
    """Tell how well an LLM's encodings carry who is what and where, by reading and template, without a picture.

    A small probe learns to name the things in captions from their encodings, and is asked about pairs of things that
    it never saw, in wordings of its training and in new ones. On top is what each token tells by itself; within reach
    is what a refiner of two blocks finds in all of them. It takes two to three minutes on two cores with an LLM of 135
    million parameters.
    """
    from pipelines.cli.config_files import read_settings

    settings = read_settings(config, set_)
    encoder_config(config, settings)
    for option, setting in (("readings", "reading"), ("templates", "template")):
        value = settings.pop(setting, None)
        if value is not None and given[option] in ([], ["{caption}"]):
            given[option] = [value]
    request = checked({**given, "settings": encoder_config(None, settings)}, ProbeRequest, "probe")
    check_proxies()
    from pipelines.runtime.probe_run import check_probe, run_probe

    check_probe(request)
    rows = run_probe(request)
    if as_json:
        print_json(document(request, rows))
    else:
        print_rows(request, rows)


def print_rows(request: ProbeRequest, rows: list[ProbeResult]) -> None:
    """Print the table, what its figures are, and what to take."""
    from llmdiff.probe.probing import as_good, recommend

    for template in dict.fromkeys(row.template for row in rows):
        print(f"template {template!r}" if template else f"{request.diffusion}, its own text features")
        print_table(COLUMNS, [line(row) for row in rows if row.template == template])
        print()
    print(
        f"Shares of {request.tests} captions of held-out pairs: both things' colour and shape / these in order, and "
        "how they stand; in wordings of training, and in new ones. Shares less than 0.1 apart may be equal."
    )
    best = recommend(rows)
    how = "within reach" if best.refiner else "on top"
    print(f"recommended: {name_of(best.row)}: {how} its four figures have the mean {best.figures.mean:.2f}")
    for command in commands(request, best):
        print(f"  {command}")
    if others := as_good(rows, best):
        print(f"not clearly worse, so that only adapters can tell: {'; '.join(map(name_of, others))}")


REFINER = ("adapter.refiner=2", "layout_steps=2000", "learning_rate=1e-3")
"""What goes with a refiner, see `docs/choosing.md`: at twice that rate it forgot what layout pre-training taught it."""
COLUMNS = ("reading", "on top: natural", "new", "mean", "in reach: natural", "new ", "mean ")


def line(row: ProbeResult) -> dict[str, str]:
    """Return a row of the table."""
    found = {"reading": row.reading}
    for figures, names in ((row.on_top, COLUMNS[1:4]), (row.in_reach, COLUMNS[4:])):
        found |= dict(zip(names, cells(figures), strict=True))
    return found


def cells(figures: Figures | None) -> tuple[str, str, str]:
    """Return figures as the table shows them."""
    if figures is None:
        return "", "", ""
    natural = f"{figures.binding:.2f} / {figures.relation:.2f}"
    return natural, f"{figures.new_binding:.2f} / {figures.new_relation:.2f}", f"{figures.mean:.2f}"


def name_of(row: ProbeResult) -> str:
    """Return a row's name: the reading and template, or the base model, that it is about."""
    return f"reading {row.reading} in template {row.template!r}" if row.template else "the base's own text features"


def commands(request: ProbeRequest, best: Recommendation) -> list[str]:
    """Return the commands that take what is recommended, as far as they follow from it."""
    adapter = ["adapter.standardise=true", *REFINER * best.refiner]
    encode = base_options(request) if not best.row.template else llm_options(request, best.row)
    return [f"llmdiff encode … {encode}", f"llmdiff train … {assigned(adapter)}"]


def base_options(request: ProbeRequest) -> str:
    """Return the options of `llmdiff encode` for a diffusion model's own text features."""
    return f"--encoder base --diffusion {shlex.quote(str(request.diffusion))}"


def llm_options(request: ProbeRequest, row: ProbeResult) -> str:
    """Return the options of `llmdiff encode` for a reading and a template, with the other settings that were given."""
    from pipelines.requests.encode import changed

    plain = request.settings.to_dict()
    others = [name for name in changed(request.settings) if name not in ("reading", "token_budget")]
    settings = [f"reading={row.reading}"] + [f"template={quoted(row.template)}"] * (row.template != "{caption}")
    settings += [f"{name}={json.dumps(plain[name])}" for name in others]
    return f"--llm {shlex.quote(str(request.llm))} {assigned(settings)}"


def assigned(settings: list[str]) -> str:
    """Return settings as a command takes them."""
    return " ".join(f"--set {shlex.quote(setting)}" for setting in settings)


def quoted(text: str) -> str:
    """Return text as YAML takes it for that text alone."""
    return json.dumps(text, ensure_ascii=False)


def document(request: ProbeRequest, rows: list[ProbeResult]) -> dict[str, Any]:
    """Return all that was asked and found as JSON values."""
    from llmdiff.probe.probing import as_good, recommend

    best = recommend(rows)
    chosen = {"reading": best.row.reading, "template": best.row.template, "refiner": best.refiner}
    others = [{"reading": row.reading, "template": row.template} for row in as_good(rows, best)]
    return {
        "request": request.model_dump(mode="json"),
        "rows": [values(row) for row in rows],
        "recommended": {**chosen, "commands": commands(request, best), "not_clearly_worse": others},
    }


def values(row: ProbeResult) -> dict[str, Any]:
    """Return a row as JSON values."""
    found: dict[str, Any] = {"reading": row.reading, "template": row.template}
    for name, figures in (("on_top", row.on_top), ("in_reach", row.in_reach)):
        found[name] = None if figures is None else {**figures._asdict(), "mean": figures.mean}
    return found
