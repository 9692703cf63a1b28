"""A run of probes: what can be refused first, then encoders one after the other, and probes of what they give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from llmdiff.devices import device
from llmdiff.encoder.config import EncoderConfig
from llmdiff.encoder.llm.loading import check_loading, load_tokenizer, naming
from llmdiff.encoder.readings import Reading
from llmdiff.model_files.base_folders import check_base
from pipelines.requests.encode import changed
from pipelines.requests.probe import ProbeRequest
from pipelines.runtime.progress import progress, quieten_loading

if TYPE_CHECKING:
    from llmdiff.encoder import Encoder
    from llmdiff.probe.probing import ProbeResult


def check_probe(request: ProbeRequest) -> None:
    """Raise ValueError for a request that can't be met, before anything is loaded; FileNotFoundError or
    ModuleNotFoundError where a model, or a package for it, is not there.
    """
    if request.llm is None and request.diffusion is None:
        raise ValueError("llm: expected the folder or name of a decoder-only LLM, or that of a diffusion model")
    if not request.templates:
        raise ValueError("templates: expected one at least, found none")
    if request.llm is None and (of_llm := changed(request.settings) + ["readings"] * bool(request.readings)):
        raise ValueError(f"llm: expected the folder or name of one, for {', '.join(of_llm)}, found none")
    for template in request.templates:
        for reading in request.readings or ["last"]:
            replace(request.settings, reading=reading, template=template)
    if request.llm is not None:
        check_loading(request.llm, request.settings)
    if request.diffusion is not None:
        check_base(request.diffusion, "text_encoder", "tokenizer")


def run_probe(request: ProbeRequest) -> list[ProbeResult]:
    """Return what the probes found, a row a reading and template, and one of the diffusion model's own features."""
    from llmdiff.probe.fit import ProbeConfig
    from llmdiff.probe.probing import BASE, Probing, encode_by, encode_by_readings

    quieten_loading()
    readings = chosen_readings(request, request.llm) if request.llm is not None else []
    config = ProbeConfig(captions=request.captions, tests=request.tests, steps=request.steps, seed=request.seed)
    probing = Probing(config, request.reach)
    captions = probing.captions.all
    if request.llm is not None:
        for template, encoder in encoders(request, request.llm, readings):
            with progress(f"encode {template!r}", len(captions), "caption") as work:
                encodings = encode_by_readings(encoder, readings, captions, work.reach)
            with progress(f"probe {template!r}", len(readings), "reading") as work:
                probing.add(template, encodings, work.reach)
    if request.diffusion is not None:
        from llmdiff.diffusion.xl import load_text_encoder

        base = load_text_encoder(request.diffusion, device())
        with progress(f"encode, {BASE}", len(captions), "caption") as work:
            encoded = encode_by(base, captions, work.reach)
        probing.add("", {BASE: encoded})
    with progress("probe within reach", len(probing.kept), "reading") as work:
        return probing.finish(work.reach)


def chosen_readings(request: ProbeRequest, llm: str) -> list[str]:
    """Return the readings to probe; ValueError where the LLM or its tokenizer can't do what is asked for."""
    from llmdiff.encoder.fit import check_depth, check_tokenizer
    from llmdiff.encoder.template import resolve_template
    from llmdiff.probe.probing import default_readings

    config, tokenizer = load_tokenizer(llm, None, request.settings)
    of_text = config.get_text_config(decoder=True)
    blocks = of_text.num_hidden_layers
    readings = list(dict.fromkeys(request.readings or default_readings(blocks)))
    with naming(llm):
        for reading in readings:
            check_depth(of_text, blocks, replace(request.settings, reading=reading))
        for template in request.templates:
            check_tokenizer(tokenizer, resolve_template(tokenizer, replace(request.settings, template=template)))
    return readings


def encoders(request: ProbeRequest, llm: str, readings: list[str]) -> Iterator[tuple[str, Encoder]]:
    """Yield an encoder for each template, all of one LLM that is loaded once, and no other template's before."""
    from llmdiff.encoder import Encoder

    reading = next((name for name in readings if Reading.parse(name).takes_scores), readings[0])
    dtype = request.settings.dtype or ("float32" if device() == "cpu" else "bfloat16")
    encoder: Encoder | None = None
    for template in dict.fromkeys(request.templates):
        config: EncoderConfig = replace(request.settings, reading=reading, template=template, dtype=dtype)
        if encoder is None:
            encoder = Encoder.from_pretrained(llm, config)
        else:
            encoder = Encoder(encoder.llm.model, encoder.tokenizer, config)
        yield template, encoder
