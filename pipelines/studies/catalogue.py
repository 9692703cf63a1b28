"""The studies by name: what each asks, what it takes. Cheap to import, for help answers at once."""

from __future__ import annotations

from typing import NamedTuple

from pipelines.requests.study import StudyName


class Entry(NamedTuple):
    """One study; its module in `pipelines.studies` has the same name."""

    question: str
    minutes: int
    """About how long on two cores, where the studies above it have run; `probe` and `real` on cores that others used,
    too."""
    alone: bool = False
    """Whether `llmdiff study all` leaves it out: it needs an LLM that the package does not embed."""


CATALOGUE: dict[StudyName, Entry] = {
    "prompts": Entry("Do controlled prompts that differ in one word give pictures that differ in that alone?", 7),
    "encodings": Entry("Does the paper's score difference earn its place beside hidden states and CLIP?", 13),
    "pathways": Entry("What does each attention path contribute, and is the original one needed?", 7),
    "weights": Entry("What weights do the two paths get, by layer and over training?", 1),
    "stability": Entry("What do blocks used, schedules, word path, start and noise do to encodings and pictures?", 10),
    "closed": Entry("How much of the gain survives where an LLM shows its outputs alone?", 7),
    "scale": Entry("What does a larger LLM bring, and what does it cost?", 13),
    "latency": Entry("What do encoding and the second attention cost in time and memory?", 3),
    "probe": Entry("Does a probe of a few minutes tell which encodings an adapter will learn best from?", 70),
    "real": Entry("How well does an LLM steer that nobody trained for it?", 100, alone=True),
}
EXPERIMENTS: tuple[StudyName, ...] = ("prompts", "pathways", "scale")
"""Three first experiments on the method: `llmdiff study paper`."""
