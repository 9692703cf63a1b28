"""A training process: ``python -m llmdiff.training.worker --config config.json``, or one of several that DeepSpeed's
launcher starts, ``deepspeed --module llmdiff.training.worker --config config.json``.

It reads the one file that `llmdiff.training.resolve` and its caller left of a run, and resolves nothing itself.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import traceback
import warnings

from llmdiff.process.parent_death import end_with_input
from llmdiff.process.startup import leave, start_lightly


def main(arguments: list[str] | None = None) -> int:
    """Train as the configuration says; report a user's mistake in one line, with exit code 1."""
    parser = argparse.ArgumentParser(prog="llmdiff.training.worker", description=__doc__)
    parser.add_argument("--config", required=True, help="JSON file of a resolved TrainConfig")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error above its line")
    parser.add_argument("--tied", action="store_true", help="end, with the state saved, when standard input is closed")
    parser.add_argument("--local_rank", type=int, help="as DeepSpeed's launcher gives it: who started this ends it")
    options = parser.parse_args(arguments)
    if arguments is None:
        # Until the loop takes over there is nothing to save; and an import may swallow an exception.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        start_lightly()
        leave_out_unused()
    if options.local_rank is not None:
        end_with_parent()
    if options.tied:
        end_with_input()
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # about collectives that DeepSpeed calls
    try:
        from llmdiff.training.config import TrainConfig

        if int(os.environ.get("CROSS_SIZE", 1)) > 1:  # hosts: the first writes the configuration before it starts
            from llmdiff.training.distributed import join

            join()
        config = TrainConfig.read(options.config)
        from llmdiff.training.loop import train

        train(config)
    except (ValueError, OSError, FloatingPointError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def leave_out_unused() -> None:
    """Skip modules that only unused parts of other packages import: MLflow alone takes more than a second.

    DeepSpeed's autotuner imports MLflow, accelerate's launcher on SageMaker boto3.
    """
    for name in ("mlflow", "boto3"):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def end_with_parent() -> None:
    """Make the kernel send a SIGTERM when this process's parent dies, after which it would go on training."""
    PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    leave(main())
