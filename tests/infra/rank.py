"""What the launcher tests run as training processes: ``python -m tests.infra.rank <folder> <how to end>``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.waiting import wait_until

SAVING = {"slow": 1.5, "stuck": 120.0}
"""Seconds that it takes to save, by the way to end."""


def main() -> int:
    folder, end = Path(sys.argv[-2]), sys.argv[-1]  # the launcher puts --local_rank first
    rank = os.environ["RANK"]

    def save(number: int, frame: object) -> None:
        time.sleep(SAVING.get(end, 0.0))
        (folder / f"saved-{rank}").touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    seen = [os.environ.get(name) for name in ("WORLD_SIZE", "DS_ACCELERATOR", "MASTER_ADDR", "AWS_SECRET_ACCESS_KEY")]
    print(f"rank {rank} speaks", flush=True)
    half = folder / f".rank-{rank}"
    half.write_text(" ".join(map(str, (os.getpid(), *seen))))
    half.rename(folder / f"rank-{rank}")  # never seen empty
    if end == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "lose":
        meet()
    if end == "raise" and rank == "1":
        wait_until((folder / "rank-0").exists)  # which the launcher ends at once
    if end in ("raise", "lose") and rank == "1":
        raise KeyError("the real reason")
    if end == "lose":
        meet()
    time.sleep(120)
    return 0


def meet() -> None:
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    dist.barrier()


if __name__ == "__main__":
    sys.exit(main())
