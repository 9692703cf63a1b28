"""What the launcher tests run as training processes: ``python -m tests.infra.rank <folder> <how to end>``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    folder, end = Path(sys.argv[-2]), sys.argv[-1]  # the launcher puts --local_rank first
    rank = os.environ["RANK"]

    def save(number: int, frame: object) -> None:
        (folder / f"saved-{rank}").touch()
        sys.exit(0)

    signal.signal(signal.SIGTERM, save)
    (folder / f"rank-{rank}").write_text(f"{os.getpid()} {os.environ['WORLD_SIZE']} {os.environ.get('DS_ACCELERATOR')}")
    print(f"rank {rank} speaks", flush=True)
    if end == "raise" and rank == "1":
        raise KeyError("the real reason")
    time.sleep(120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
