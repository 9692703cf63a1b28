"""DeepSpeed's launcher, started as our own programs are."""

from __future__ import annotations

from llmdiff.process.startup import collect_seldom

if __name__ == "__main__":
    collect_seldom()
    from deepspeed.launcher.launch import main

    main()
