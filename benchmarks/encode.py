"""What encoding costs: against one plain forward pass of the same tokens, and against the obvious implementation.

Random weights in the real shapes, the real tokenizers, real prompts; made ones and the embedded LLMs' tokenizers where
the folder of data is missing. Fewer blocks than the real model where memory or time ask for it; the row says how many.
Every ratio is taken within one run, round by round.

    python benchmarks/encode.py --shape phi-1.5 --blocks 4
    python benchmarks/encode.py --shape vicuna-7b --blocks 2 --word-path isolated
    python benchmarks/encode.py --part text --shape phi-1.5 --reading norm_mean last

Pictures are measured apart, into ``encode_pictures.csv``: decoding alone, the autoencoder alone, all in turn, and all
in the stages of `encode_shard`; and the share of time for which an accelerator of a known speed, which a sleep stands
in for, would wait.

    python benchmarks/encode.py --part pictures

What a bfloat16 pass of the autoencoder costs in exactness is a row of ``vae_dtype.csv``: ``--part dtype``.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from common.measure import RESULTS, append_row, device_name, interleaved, peak_bytes, quantiles, versions
from common.prompts import prompts_of, tokenizer_of
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PhiConfig

from llmdiff.compilation import uncompiled
from llmdiff.encoder import Encoder, EncoderConfig
from llmdiff.encoder.batch_encoder import pad
from llmdiff.encoder.batching import batches_by_tokens
from llmdiff.encoder.llm.compiled import compile_blocks
from llmdiff.encoder.llm.decoder_llm import DecoderLLM
from llmdiff.encoder.llm.scores import diagonal_mask
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.tokens import padding_id, tokenise

SHAPES: dict[str, Callable[[], Any]] = {"phi-1.5": PhiConfig, "vicuna-7b": LlamaConfig}
QUICK = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
GOALS = {("phi-1.5", "block"): 1.15, ("vicuna-7b", "block"): 1.80}  # over a plain pass; 1.05 for the others
CPU_BLOCKS = {"phi-1.5": 6, "vicuna-7b": 2}
PARTS = ["text", "pictures", "dtype"]
OBVIOUS = ["obvious", "longest"]  # padded to a batch's longest caption, or to the longest of all
ALL = 2697  # prompts of the two lists
BATCH = 32  # captions in a batch of the obvious implementation


def main(argv: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.ERROR)
    arguments = parse(argv)
    for shape in arguments.shape if "text" in arguments.part else ():
        measure_shape(shape, arguments)
    photos = arguments.data / "photos"
    if not photos.is_dir():
        print(f"{photos}: no such folder; no pictures measured (see --data)")
        return
    if "pictures" in arguments.part:
        from common.encode_pictures import CASES, measure_pictures  # needs the store's packages, which text does not

        measure_pictures(photos, arguments.case or list(CASES), arguments.rounds)
    if "dtype" in arguments.part:
        from common.vae_dtype import measure_dtype

        measure_dtype(photos, torch.device(arguments.device))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--case", nargs="+", help="of pictures; default: all")
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--word-path", nargs="+", choices=["block", "isolated"], default=["block", "isolated"])
    parser.add_argument("--reading", nargs="+", default=["score"], help="what is read of the LLM")
    parser.add_argument("--blocks", type=int, help="transformer blocks (all on a GPU, a few on a CPU)")
    parser.add_argument(
        "--captions", type=int, help="how many prompts, spread over the file (all on a GPU, 128 on a CPU)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=256, help="longer prompts are cut, for everyone; 256 cuts none"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--against", nargs="*", choices=OBVIOUS, default=OBVIOUS, help="obvious ways, besides one pass")
    parser.add_argument("--token-budget", type=int, default=None, help="16384 on a GPU, 2048 on a CPU")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with prompts/, tokenizers/ and photos/"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="threads on a CPU")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of encode.csv")
    parser.add_argument("--compiled", action="store_true", help="compile the LLM's blocks, for plain passes too")
    parser.add_argument("--quick", action="store_true", help="small models, to try the script")
    return parser.parse_args(argv)


def measure_shape(shape: str, arguments: argparse.Namespace) -> None:
    """Add the rows of one LLM's shape."""
    device = torch.device(arguments.device)
    on_gpu = device.type == "cuda"
    torch.set_num_threads(arguments.threads)
    configuration = SHAPES[shape]()
    real_blocks = configuration.num_hidden_layers
    blocks = arguments.blocks or (real_blocks if on_gpu else CPU_BLOCKS[shape])
    configuration.update({"num_hidden_layers": blocks, **(QUICK if arguments.quick else {})})
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(configuration, dtype=getattr(torch, arguments.dtype)).eval()
    if arguments.compiled:
        compile_blocks(DecoderLLM(model))
    tokenizer = tokenizer_of(shape, arguments.data)
    captions, prompts = prompts_of(arguments.data, arguments.captions or (ALL if on_gpu else 128))
    budget = arguments.token_budget or (16384 if on_gpu else 2048)
    for reading, word_path in readings_of(arguments):
        with tempfile.TemporaryDirectory() as cache:
            settings = {"dtype": arguments.dtype, "token_budget": budget, "max_tokens": arguments.max_tokens}
            config = EncoderConfig(reading=reading, word_path=word_path or "block", **settings)
            encoder = Encoder(model, tokenizer, config, cache_folder=cache)
            row = {
                "device": device_name(device),
                "versions": versions(),
                "shape": ("small " if arguments.quick else "") + shape + (", compiled" if arguments.compiled else ""),
                "blocks": f"{blocks} of {real_blocks}",
                "dtype": arguments.dtype,
                "word_path": word_path,
                "captions": len(captions),
                "max_tokens": arguments.max_tokens,
            }
            against = arguments.against if reading == "score" else ()  # the obvious ways are of that
            with uncompiled(arguments.quick):
                measured = measure(encoder, captions, arguments.rounds, device, shape, against)
            append_row("encode", {**row, **measured, "prompts": prompts, "reading": reading}, arguments.results)


def readings_of(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield each reading with its word paths; hidden states have none, and normalised scores one."""
    for reading in arguments.reading:
        if not Reading.parse(reading).takes_scores:
            yield reading, ""
        else:
            yield from (
                (reading, path) for path in arguments.word_path if (reading, path) != ("score_norm", "isolated")
            )


def measure(
    encoder: Encoder,
    captions: list[str],
    rounds: int,
    device: torch.device,
    shape: str,
    against: Sequence[str] = tuple(OBVIOUS),
) -> dict[str, Any]:
    """Return times, ratios and peaks of one encoder; columns of ways that it is not held against are empty."""
    tokens = [token.ids for token in tokenise(encoder.tokenizer, captions, encoder.config, encoder.llm.vocabulary)]
    batches = list(batches_by_tokens([len(ids) for ids in tokens], encoder.config.token_budget))
    padded = [pad([tokens[i] for i in batch], padding_id(encoder.tokenizer)).to(device) for batch in batches]

    @torch.inference_mode()
    def plain() -> None:
        for ids in padded:
            encoder.llm.forward(ids)

    plain_peak = peak_bytes(plain, device)
    encoder(captions[:1])  # makes the isolated path's table, which is computed once per LLM
    encode_peak = peak_bytes(lambda: encoder(captions), device)
    longest = max(len(ids) for ids in tokens)
    runs: dict[str, Callable[[], object]] = {
        "encode": lambda: encoder(captions),
        "plain": plain,
        "obvious": lambda: obvious_encode(encoder, tokens, device),
        "longest": lambda: obvious_encode(encoder, tokens, device, longest),
    }
    wanted = ("encode", "plain", *against)
    times = interleaved({name: run for name, run in runs.items() if name in wanted}, device, rounds)
    ratios = [one / other for one, other in zip(times["encode"], times["plain"], strict=True)]
    obvious = {name: quantiles(times[name])[1] for name in against}
    takes_scores = Reading.parse(encoder.config.reading).takes_scores
    weights = sum(parameter.nbytes for parameter in encoder.llm.model.parameters())
    encode = quantiles(times["encode"])
    return {
        "tokens": sum(len(ids) for ids in tokens),
        "cut_or_full": sum(len(ids) == encoder.config.max_tokens for ids in tokens),
        "padding": sum(ids.numel() for ids in padded) / sum(len(ids) for ids in tokens) - 1.0,
        **dict(zip(("encode_p20_s", "encode_p50_s", "encode_p80_s"), encode, strict=True)),
        "plain_p50_s": quantiles(times["plain"])[1],
        **dict(zip(("ratio_p20", "ratio_p50", "ratio_p80"), quantiles(ratios), strict=True)),
        "ratio_goal": GOALS.get((shape, encoder.config.word_path), 1.05) if takes_scores else 1.05,
        "captions_per_s": len(captions) / encode[1],
        "obvious_captions_per_s": len(captions) / obvious["obvious"] if "obvious" in obvious else "",
        "speedup": obvious["obvious"] / encode[1] if "obvious" in obvious else "",
        "speedup_over_padding_to_longest": obvious["longest"] / encode[1] if "longest" in obvious else "",
        "speedup_goal": 3.0,
        "weights_mb": weights / 1e6,
        "plain_peak_mb": plain_peak / 1e6,
        "encode_peak_mb": encode_peak / 1e6,
        "peak_ratio": encode_peak / plain_peak,
        "peak_goal": 1.2,
        "peak_ratio_without_weights": (encode_peak - weights) / (plain_peak - weights),
    }


@torch.inference_mode()
def obvious_encode(
    encoder: Encoder, tokens: list[list[int]], device: torch.device, length: int | None = None
) -> list[Tensor]:
    """Encode as one would write it first: two passes that keep all hidden states, the second under a diagonal mask.

    Batches in file order, padded to their longest caption or to ``length``, an attention mask for the padding.
    """
    results = []
    for o_caption in range(0, len(tokens), BATCH):
        batch = tokens[o_caption : o_caption + BATCH]
        ids = pad([*batch, [0] * (length or 0)], padding_id(encoder.tokenizer))[: len(batch)].to(device)
        lengths = torch.tensor([len(row) for row in batch], device=device)
        seen = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
        alone = diagonal_mask(ids[..., None].to(encoder.llm.dtype)).expand(len(batch), -1, -1, -1)
        settings = {"output_hidden_states": True, "use_cache": False}
        sentence = encoder.llm.backbone(ids, attention_mask=seen, **settings).hidden_states
        word = encoder.llm.backbone(ids, attention_mask=alone, **settings).hidden_states
        c = sentence[0].float()
        for t in range(len(sentence) - 1):
            c += (sentence[t + 1] - sentence[t]).float() - (word[t + 1] - word[t]).float()
        results += [c[i, : len(row)].cpu() for i, row in enumerate(batch)]
    return results


if __name__ == "__main__":
    main()
