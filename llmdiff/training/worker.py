"""The process that DeepSpeed's launcher starts: ``deepspeed --module llmdiff.training.worker --config run.json``.

It also runs alone: ``python -m llmdiff.training.worker --config run.json``.
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings

from llmdiff.training.config import TrainConfig


def main(arguments: list[str] | None = None) -> int:
    """Trains as the configuration says; a user's mistake is one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="llmdiff.training.worker", description=__doc__)
    parser.add_argument("--config", required=True, help="JSON file of a TrainConfig")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error above its line")
    parser.add_argument("--local_rank", type=int, help="set by DeepSpeed's launcher")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")  # of collectives that DeepSpeed calls
    try:
        config = TrainConfig.read(options.config)
        from llmdiff.training.loop import train

        train(config)
    except (ValueError, OSError, FloatingPointError) as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
