"""Models that stay loaded: each base once, each LLM once, and the adapters that are put into a base in turn."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmdiff.adapter.config import WEIGHTS, read_config
from llmdiff.sampling import Sampling, load_pipeline, prepare

if TYPE_CHECKING:
    from llmdiff.adapter.prompts import LoadedAdapter
    from pipelines.runtime.adapter_source import Source


class Models:
    """Loaded models, and the one lock under which they draw: two people's adapters never meet in a base."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._pipes: dict[tuple[str, str], tuple[Any, Any]] = {}
        """Loaded pipelines by base and dtype, each with the scheduler that it came with."""
        self._encoders: dict[tuple[str, str], Any] = {}
        self._latent_encoders: dict[str, Any] = {}
        self._adapters: dict[tuple[str, ...], LoadedAdapter] = {}

    @contextmanager
    def drawing(self, source: Source, sampling: Sampling, adapted: bool = True) -> Iterator[Any]:
        """Hold a pipeline ready to draw, with the adapter in it or without, until the block is left.

        Raises:
            ValueError: adapter, LLM and base do not go together.
        """
        with self.lock:
            pipe, scheduler = self._pipe(source.diffusion, sampling)
            pipe.scheduler = type(scheduler).from_config(scheduler.config)
            prepare(pipe, sampling.scheduler)
            if not adapted:
                yield pipe
                return
            loaded = self._put_in(pipe, source, sampling)
            try:
                yield pipe
            finally:
                loaded.remove()

    def encoder(self, source: Source) -> Any:
        """Return the adapter's LLM, loaded once for all adapters that read it in the same way; hold `lock` for it."""
        from llmdiff.encoder import Encoder
        from llmdiff.pipeline import encoder_settings

        config = read_config(source.adapter)
        key = (source.llm or "", json.dumps(config.encoder_description, sort_keys=True))
        if key not in self._encoders:
            self._encoders[key] = Encoder.from_pretrained(source.llm or "", encoder_settings(config))
        return self._encoders[key]

    def latent_encoder(self, diffusion: str) -> Any:
        """Return a base's autoencoder; hold `lock` while it decodes."""
        from llmdiff.diffusion.latents import LatentEncoder

        if diffusion not in self._latent_encoders:
            self._latent_encoders[diffusion] = LatentEncoder.from_pretrained(diffusion)
        return self._latent_encoders[diffusion]

    def _pipe(self, diffusion: str, sampling: Sampling) -> tuple[Any, Any]:
        from pipelines.runtime.progress import quieten_loading

        key = (diffusion, sampling.dtype)
        if key not in self._pipes:
            quieten_loading()
            pipe = load_pipeline(diffusion, dtype=sampling.dtype)
            self._pipes[key] = pipe, pipe.scheduler
        return self._pipes[key]

    def _put_in(self, pipe: Any, source: Source, sampling: Sampling) -> LoadedAdapter:
        """Put an adapter into a pipeline; one that was trained again since it was loaded is loaded anew."""
        from llmdiff.pipeline import load_adapter

        changed = (Path(source.adapter) / WEIGHTS).stat().st_mtime_ns
        key = (source.diffusion, sampling.dtype, source.adapter, str(changed), source.llm or "")
        if (loaded := self._adapters.get(key)) is None:
            load_adapter(pipe, source.adapter, self.encoder(source) if source.llm else None)
            loaded = self._adapters[key] = pipe.encode_prompt.loaded
        else:
            loaded.install()
            loaded.add(pipe)
        return loaded
