"""The encoder: captions in, text encodings out, by Algorithm 1 (arXiv 2502.04412) or another reading of the LLM."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from llmdiff.encoder.batch_encoder import BatchEncoder
from llmdiff.encoder.batching import BatchBudget, run_in_batches
from llmdiff.encoder.config import Attention, DType, EncoderConfig
from llmdiff.encoder.description import describe_llm, describe_settings
from llmdiff.encoder.fit import check_depth, check_tokenizer
from llmdiff.encoder.llm.compiled import compile_blocks
from llmdiff.encoder.llm.content_hash import tokenizer_identity
from llmdiff.encoder.llm.decoder_llm import DecoderLLM
from llmdiff.encoder.llm.loading import Placement, load_pretrained
from llmdiff.encoder.llm.quantization import check_quantised
from llmdiff.encoder.nonfinite import NonFinite
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.schedules import resolve_schedule
from llmdiff.encoder.sums.langevin import noise_std
from llmdiff.encoder.template import resolve_template
from llmdiff.encoder.tokens import BadCaption, Tokens, normalise, padding_id, try_tokenise

logger = logging.getLogger(__name__)
FORMULA_VERSION = 2
"""Version of the formula, which rises whenever the same settings would give other numbers.

It did not rise when control tokens' letters in a caption became text, nor when a tokenizer's own EOS came to stay at
the end of a caption that is cut, with `append_eos` off: of all captions, those few alone have other ids since.
One of them that a store holds from before stays as it is; a new store gives such captions their new encodings.
"""

Progress = Callable[[int, int], None]


class Encoder:
    """A frozen decoder-only LLM as a text encoder.

    A run repeated with the same captions gives the same bits; in another batch a caption's matrix products round
    differently. On trained weights (SmolLM2-135M) that is up to 2e-6 of its encoding in float32 and 2e-2 in bfloat16.
    Against float64, float32 is off by 1e-6 of a token's encoding on average (5e-6 at most, any reading); bfloat16 by
    2e-2 (9e-2) with scores and the last hidden state, by 1e-2 (5e-2) with means, as that dtype's hidden states are.

    Args:
        model: a transformers causal language model, its weights in the configuration's dtype where that names one.
        tokenizer: its tokenizer.
        config: the settings; defaults where None. Its dtype and a chat template's text are filled in.
        cache_folder: where the isolated path's table is kept; None: the user's cache folder.

    Raises:
        ValueError: the model is not decoder-only, its dtype is not the configuration's, a schedule or layer does not
            fit its blocks, its weights are not quantised as the configuration says, or the tokenizer lacks a pad token,
            or the EOS or chat template that is asked for.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        config: EncoderConfig | None = None,
        *,
        cache_folder: str | Path | None = None,
    ) -> None:
        config = config or EncoderConfig()
        self.llm = DecoderLLM(model, scores=Reading.parse(config.reading).takes_scores)
        self.config = resolve_template(tokenizer, with_dtype(self.llm, config))
        self.tokenizer, self.truncated = tokenizer, 0
        self._budget = BatchBudget(self.config.token_budget)
        check_fit(self.llm, self.tokenizer, self.config)
        self.g = resolve_schedule(self.config.g, self.llm.blocks)
        self.h = resolve_schedule(self.config.h, self.llm.blocks)
        self._encode_batch = BatchEncoder(self.llm, self.config, self.g, self.h, cache_folder)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        config: EncoderConfig | None = None,
        *,
        revision: str | None = None,
        dtype: DType | None = None,
        device: str | torch.device | None = None,
        device_map: str | dict[str, Any] | None = None,
        attention: Attention | None = None,
        torch_compile: bool = False,
        cache_folder: str | Path | None = None,
    ) -> Encoder:
        """Load the encoder of a folder, a GGUF file or a hub name: no pickled weights, and no code of the model's own.

        A tokenizer without a pad token, as Phi's and Llama's are, is given its EOS for one.

        Args:
            name_or_folder: a folder that ``save_pretrained`` wrote, a GGUF file or a folder with one, or a name on the
                hub. A GGUF file's weights are unpacked into the configuration's dtype.
            config: the settings; defaults where None.
            revision: the hub revision.
            dtype: overrides the configuration's; bfloat16 where both are None.
            device: where the LLM runs; a GPU where there is one and neither this nor `device_map` is given.
            device_map: spreads the LLM over several devices, memory and disk, as transformers takes it: ``auto``,
                ``balanced``, ``sequential``, or a device for each module.
            attention: how attention is computed; transformers' own choice where None.
            torch_compile: compile the LLM's blocks, which moves encodings by rounding; see `compile_blocks`.
            cache_folder: see the constructor.

        Raises:
            ValueError: no tokenizer, one with neither pad token nor EOS, no safetensors or GGUF weights, no known LLM,
                weights that are quantised already, or an attention or compiler that is not to be had here.
            FileNotFoundError: there is no such folder.
            ModuleNotFoundError: GGUF or `quantization` needs a package that is not installed.
        """
        config = config or EncoderConfig()
        if dtype is not None:
            config = dataclasses.replace(config, dtype=dtype)
        where = Placement(device=device, device_map=device_map, attention=attention, torch_compile=torch_compile)
        model, tokenizer = load_pretrained(name_or_folder, config, revision, where)
        encoder = cls(model, tokenizer, config, cache_folder=cache_folder)
        if torch_compile:
            compile_blocks(encoder.llm)
        return encoder

    @property
    def hidden_size(self) -> int:
        """The width of an encoding."""
        return self.llm.hidden_size

    @property
    def noise_std(self) -> tuple[float, ...]:
        """Standard deviation, band by band, of the noise that ``noise="fresh"`` leaves to each use: sqrt(2 sum h).

        Training draws it at every step; pipelines read the encoding as it is, the noise's mean.
        """
        return noise_std(self.h if self.config.noise == "fresh" else (), self.llm.blocks, self.config.bands)

    def __call__(self, captions: Sequence[str], progress: Progress | None = None) -> list[Tensor]:
        """Return the encodings of the captions, in their order.

        Args:
            captions: any texts; equal ones are encoded once and share their tensor.
            progress: called with (captions done, captions in all) after each batch.

        Returns:
            float32 (token, hidden) a caption, on the CPU; (band, token, hidden) where ``bands > 1``.

        Raises:
            BadCaption: a caption cannot be encoded, or holds NaN or infinity (:meth:`encode` goes on instead).
        """
        return [encoding_of(result) for result in self.encode(captions, progress)]

    def encode(self, captions: Sequence[str], progress: Progress | None = None) -> list[Tensor | BadCaption]:
        """Encode as a call does, but return the error in place of a caption without a finite encoding, and go on."""
        return self.encode_by(self._encode_batch, captions, progress)

    def encode_by(
        self, encode_batch: BatchEncoder, captions: Sequence[str], progress: Progress | None = None
    ) -> list[Tensor | BadCaption]:
        """Encode as :meth:`encode` does, batch by batch with another batch encoder of the same LLM."""
        texts = [normalise(caption) for caption in captions]
        copies = Counter(texts)
        tokens = dict(
            zip(copies, try_tokenise(self.tokenizer, list(copies), self.config, self.llm.vocabulary), strict=True)
        )
        cut = sum(copies[text] for text, found in tokens.items() if isinstance(found, Tokens) and found.truncated)
        self.truncated += cut
        if cut:
            logger.warning("%d captions were cut to %d tokens", cut, self.config.max_tokens)
        results = encode_tokens(encode_batch, tokens, copies, padding_id(self.tokenizer), self._budget, progress)
        return [results[text] for text in texts]

    def describe(self) -> dict[str, Any]:
        """Return all that decides an encoding's numbers, as JSON values: what a fingerprint is made of.

        Paths, devices and batch sizes are not in it; settings without an effect (noise levels while noise is off) are
        None.
        """
        return {
            "kind": "llm",
            "formula": FORMULA_VERSION,
            "llm": describe_llm(self.llm, self.config),
            "tokenizer": self._tokenizer_identity,
            **describe_settings(counted(self.config, self.llm.blocks), self.g, self.h, self.noise_std),
        }

    @cached_property
    def _tokenizer_identity(self) -> str:
        return tokenizer_identity(self.tokenizer, eos_pads=True)


def counted(config: EncoderConfig, blocks: int) -> EncoderConfig:
    """Return the settings with the layers of their reading counted from the embedding."""
    return dataclasses.replace(config, reading=str(Reading.parse(config.reading).of(blocks)))


def encoding_of(result: Tensor | BadCaption) -> Tensor:
    """Return an encoding; raise the error that stands in its place."""
    if isinstance(result, BadCaption):
        raise result
    return result


def encode_tokens(
    encode_batch: BatchEncoder,
    tokens: Mapping[str, Tokens | BadCaption],
    copies: Mapping[str, int],
    padding: int,
    budget: BatchBudget,
    progress: Progress | None,
) -> dict[str, Tensor | BadCaption]:
    """Return the encoding of each text, batch by batch, or why it has none; `progress` counts each text's copies."""
    results: dict[str, Tensor | BadCaption] = {k: bad for k, bad in tokens.items() if isinstance(bad, BadCaption)}
    fine = [(text, token) for text, token in tokens.items() if isinstance(token, Tokens)]
    done = sum(copies[text] for text in results)

    def run(indices: list[int]) -> list[Tensor | NonFinite]:
        return encode_batch([fine[i][0] for i in indices], [fine[i][1] for i in indices], padding)

    for indices, encodings in run_in_batches([len(token.ids) for _, token in fine], budget, run):
        for i, encoding in zip(indices, encodings, strict=True):
            results[fine[i][0]] = encoding
            done += copies[fine[i][0]]
        if progress is not None:
            progress(done, sum(copies.values()))
    return results


def with_dtype(llm: DecoderLLM, config: EncoderConfig) -> EncoderConfig:
    """Return the settings with the LLM's dtype; ValueError where they name another, or it is none of those."""
    own: Any = str(llm.dtype).removeprefix("torch.")
    if own not in get_args(DType) or config.dtype not in (None, own):
        expected = f"torch.{config.dtype}, the configuration's dtype" if config.dtype else ", ".join(get_args(DType))
        raise ValueError(f"the LLM's weights are {llm.dtype}; expected {expected}")
    return dataclasses.replace(config, dtype=own)


def check_fit(llm: DecoderLLM, tokenizer: Any, config: EncoderConfig) -> None:
    """Raise ValueError where LLM, tokenizer and settings do not fit each other."""
    check_depth(llm.config, llm.blocks, config)
    llm.check_states(Reading.parse(config.reading).kind == "last")
    check_quantised(llm.config, config.quantization)
    check_tokenizer(tokenizer, config)
    if config.append_eos and tokenizer.eos_token_id >= llm.vocabulary:
        expected = f"expected one below {llm.vocabulary}, the LLM's vocabulary; or append_eos=False"
        raise ValueError(f"the tokenizer's EOS has the id {tokenizer.eos_token_id}; {expected}")
