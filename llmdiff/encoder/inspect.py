"""Show a person what is read of a caption, block by block and token by token."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from llmdiff.encoder.batch_encoder import BatchEncoder
from llmdiff.encoder.llm.decoder_llm import ScorePath
from llmdiff.encoder.llm.scores import BlockScore
from llmdiff.encoder.readings import Reading
from llmdiff.encoder.sums.word_table import word_sums
from llmdiff.encoder.tokens import BadCaption, normalise, tokenise

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

    from llmdiff.encoder.encoder import Encoder

COLOURS = [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)]  # dark to bright
CELL, MARGIN, LABEL = 18, 12, 96  # pixels
LETTER = 6
"""Most pixels that a letter takes on average."""
SPACES = "\u0120\u2581"
"""Characters that stand for the space before a word in tokens of GPT-2's and of SentencePiece's kind."""


class Outlier(NamedTuple):
    """The largest channel of a block's output."""

    block: int
    token: int
    channel: int
    ratio: float
    """Magnitude of the channel over the median magnitude of the block's output."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """Norms of one caption's scores or hidden states, and of its encoding."""

    caption: str
    tokens: list[str]
    norms: dict[str, Tensor]
    """Each float32 (block, token), blocks from the embedding up. Of a reading of scores, `sentence`: ``|S_t(d)|``, what
    the block adds to the token in its context; `word`: ``|W_t(d)|``, what it adds to the token alone; `context`:
    ``|S_t(d) - W_t(d)|``, what the context adds. Of a reading of hidden states, `state`: what the block puts out."""
    outliers: list[Outlier]
    """The largest channel of each block's output."""
    kept: range
    """Range of the tokens whose encodings are kept."""
    encoding: Tensor
    """float32 (band, kept token): what the reading makes of the blocks. NaN where it is not finite."""

    def table(self) -> str:
        """Return a line a block and token, a line a block with its outlier channel, and a line a token's encoding."""
        width = max(len(token) for token in self.tokens)
        lines = [f"{'block':>5}  {'token':<{width}}  " + "  ".join(f"{name:>10}" for name in self.norms)]
        for block in range(len(self.outliers)):
            for d, token in enumerate(self.tokens):
                norms = (float(norm[block, d]) for norm in self.norms.values())
                lines.append(f"{block:>5}  {token:<{width}}  " + "  ".join(f"{norm:>10.4g}" for norm in norms))
        lines.append("largest channel of each block's output, over the median of all:")
        for outlier in self.outliers:
            token = self.tokens[outlier.token]
            lines.append(f"{outlier.block:>5}  {token:<{width}}  channel {outlier.channel:>5}  {outlier.ratio:>8.1f}")
        lines.append("norm of each token's encoding" + (", band by band:" if len(self.encoding) > 1 else ":"))
        for d, token in enumerate(self.tokens):
            of_bands = self.encoding[:, d - self.kept.start].tolist() if d in self.kept else []
            told = "  ".join(f"{norm:>10.4g}" for norm in of_bands) or f"{'not kept':>10}"
            lines.append(f"{'':>5}  {token:<{width}}  {told}")
        return "\n".join(lines)


@torch.no_grad()
def inspect(encoder: Encoder, caption: str) -> Inspection:
    """Return the norms of what the encoder's reading takes of one caption, and of the encoding that it makes of it.

    Taken are scores under its word path, before they are weighted or normalised; or all blocks' outputs.
    """
    caption = normalise(caption)
    (tokens,) = tokenise(encoder.tokenizer, [caption], encoder.config, encoder.llm.vocabulary)
    ids, kept = tokens.ids, range(len(tokens.ids))[tokens.keep]
    row = torch.tensor([ids], device=encoder.llm.device)
    if Reading.parse(encoder.config.reading).takes_scores:
        values, outputs = _all_scores(encoder, row)
    else:
        outputs = _scores(encoder, row, "output")[1]
        values = {"state": torch.stack(outputs)}
    return Inspection(
        caption=caption,
        tokens=encoder.tokenizer.convert_ids_to_tokens(ids),
        norms={name: value.norm(dim=-1).cpu() for name, value in values.items()},
        outliers=[_outlier(block, output) for block, output in enumerate(outputs)],
        kept=kept,
        encoding=_encoding_norms(encoder, caption, len(kept)),
    )


class WithoutTable(BatchEncoder):
    """Encodes captions without the isolated path's table, which takes a pass of the whole vocabulary to make."""

    def _word_scores(self, ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        needed, index = torch.tensor([token for row in ids for token in row]).unique(return_inverse=True)
        sums = word_sums(self.llm, self.g, self.config, needed.tolist())
        return sums.to(self.llm.device), index.to(self.llm.device, torch.int32)


def _encoding_norms(encoder: Encoder, caption: str, kept: int) -> Tensor:
    """Return the norms (band, kept token) of a caption's encoding."""
    batch_encoder = WithoutTable(encoder.llm, encoder.config, encoder.g, encoder.h, cache_folder=None)
    (encoding,) = encoder.encode_by(batch_encoder, [caption])
    if isinstance(encoding, BadCaption):
        return torch.full((encoder.config.bands, kept), torch.nan)
    return encoding.float().norm(dim=-1).reshape(-1, kept)


def _all_scores(encoder: Encoder, row: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Return sentence, word and context scores (block, token, hidden) of a caption, and the blocks' outputs."""
    sentence, outputs = _scores(encoder, row, "sentence")
    if encoder.config.word_path == "block":
        context = _scores(encoder, row, "context")[0]
        word = sentence - context
    else:
        word = _scores(encoder, row.T, "sentence")[0]
        context = sentence - word
    context[:, 0] = 0.0
    return {"sentence": sentence, "word": word, "context": context}, outputs


def _scores(encoder: Encoder, ids: Tensor, path: ScorePath) -> tuple[Tensor, list[Tensor]]:
    """Return scores (block, token, hidden) of one caption or a column of tokens, and the blocks' outputs."""
    scores: list[Tensor] = []
    outputs: list[Tensor] = []

    def fold(score: BlockScore) -> None:
        total = score.plus.float()
        total = total if score.also is None else total + score.also.float()
        total = total if score.minus is None else total - score.minus.float()
        scores.append(total.flatten(0, -2).to(encoder.llm.device))
        outputs.append(score.output.float().flatten(0, 1).to(encoder.llm.device))

    encoder.llm.stream(ids, path, fold)
    return torch.stack(scores), outputs


def _outlier(block: int, output: Tensor) -> Outlier:
    """Return the largest channel of a block's output (token, hidden)."""
    magnitude = output.abs()
    token, channel = divmod(int(magnitude.argmax()), output.shape[1])
    return Outlier(block, token, channel, float(magnitude.max() / magnitude.median().clamp_min(1e-12)))


def write_heat_map(inspection: Inspection, path: str | Path) -> None:
    """Write a PNG of a panel for each kind of norm: tokens down, blocks across, one logarithmic scale.

    The names of tokens whose encodings are not kept are pale.
    """
    draw_heat_map(inspection).save(path, format="PNG")


def draw_heat_map(inspection: Inspection) -> Image:
    """Return the picture that :func:`write_heat_map` writes."""
    from PIL import Image, ImageDraw

    panels = inspection.norms
    blocks, tokens, kept = len(inspection.outliers), len(inspection.tokens), inspection.kept
    panel_width = max(blocks * CELL, 6 * CELL)
    width = LABEL + len(panels) * (panel_width + MARGIN) + MARGIN
    caption = [printable(line) for line in textwrap.wrap(inspection.caption, (width - MARGIN) // LETTER)]
    top = (2 + max(1, len(caption))) * MARGIN  # top of the cells
    image = Image.new("RGB", (width, top + tokens * CELL + 2 * MARGIN), "white")
    canvas = ImageDraw.Draw(image)
    scaled = log_scale(torch.stack(list(panels.values())))
    for i, line in enumerate(caption):
        canvas.text((MARGIN // 2, MARGIN // 2 + i * MARGIN), line, fill="black")
    for d, token in enumerate(inspection.tokens):
        canvas.text((MARGIN // 2, top + d * CELL + 3), printable(token)[:14], fill="black" if d in kept else "silver")
    for i, (title, _) in enumerate(panels.items()):
        left = LABEL + i * (panel_width + MARGIN)
        canvas.text((left, top - MARGIN - 2), title, fill="black")
        _draw_panel(canvas, scaled[i], left, top)
    canvas.text((LABEL, top + tokens * CELL + 3), "block 0 at the left; brighter is larger (log)", fill="black")
    return image


def printable(text: str) -> str:
    """Return text in letters that every font of Pillow has; a dot stands for the space that a token begins with."""
    for space in SPACES:
        text = text.replace(space, "\u00b7")
    return text.encode("latin-1", "replace").decode("latin-1")


def log_scale(values: Tensor) -> Tensor:
    """Return values as shares of the way from smallest to largest on a logarithmic scale, 0 where they are 0."""
    positive = values > 0
    logarithm = values.clamp_min(values[positive].min() if bool(positive.any()) else 1.0).log()
    low, high = logarithm.min(), logarithm.max()
    return torch.where(positive, (logarithm - low) / (high - low).clamp_min(1e-12), 0.0)


def _draw_panel(canvas: ImageDraw, shares: Tensor, left: int, top: int) -> None:
    """Draw one cell a block and token."""
    for block, column in enumerate(shares.tolist()):
        for d, share in enumerate(column):
            corner = (left + block * CELL, top + d * CELL)
            canvas.rectangle((*corner, corner[0] + CELL - 2, corner[1] + CELL - 2), fill=colour(share))


def colour(share: float) -> tuple[int, int, int]:
    """Return the colour of a share between 0 and 1."""
    place = min(max(share, 0.0), 1.0) * (len(COLOURS) - 1)
    i = min(int(place), len(COLOURS) - 2)
    red, green, blue = (round(a + (b - a) * (place - i)) for a, b in zip(COLOURS[i], COLOURS[i + 1], strict=True))
    return red, green, blue
