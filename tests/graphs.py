"""What `torch.compile` makes graphs of, counted. They run as they are: to make fast code of them takes minutes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class Graphs:
    """Graphs since the start of the block."""

    @property
    def count(self) -> int:
        from torch._dynamo.utils import counters

        return counters["stats"]["unique_graphs"]

    @property
    def breaks(self) -> list[str]:
        """Why some code is no one graph."""
        from torch._dynamo.utils import counters

        return list(counters["graph_break"])


@contextmanager
def counted_graphs() -> Iterator[Graphs]:
    """Count from nothing, and forget what is compiled before and after."""
    import torch
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    trace = logging.getLogger("torch.__trace")  # writes pages for nobody, which takes longer than the rest
    before, trace.disabled = trace.disabled, True
    try:
        with torch.compiler.set_stance("default", force_backend="eager"):
            yield Graphs()
    finally:
        trace.disabled = before
        torch.compiler.reset()
