"""The kernel compiled for GPUs of three generations and of two makers, which needs none of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.kernels.test_triton_kernel import ROOT

pytestmark = pytest.mark.process
WIDE = ("ld.global.v4.b32", "st.global.v4.b32", "global_load_dwordx4", "global_store_dwordx4")
"""128 bits each."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Facts of every kernel that :mod:`tests.kernels.compiled` compiles."""
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    env.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.kernels.compiled"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_switch_compiles_for_every_target_and_nothing_leaves_the_registers(kernels) -> None:
    assert len(kernels) == 4 * 4 + 5
    for kernel in kernels:
        assert kernel["spilt"] == 0, kernel
        assert 0 < kernel["registers"] <= 64, kernel  # 32 warps of these fit into an H100's multiprocessor


def test_rows_of_numbers_are_read_and_written_128_bits_at_a_time(kernels) -> None:
    """What is narrower is one number a row: its position, its source, its caption (AMD reads those as scalars)."""
    for kernel in kernels:
        narrow = sorted(set(kernel["memory"]) - set(WIDE))
        single = ["ld.global.b32"] + ["ld.global.b64"] * ("HAS_NOISE" in kernel["on"])
        assert narrow == (single if kernel["target"] != "gfx942" else []), kernel
        assert kernel["memory"].count("ld.global.b32") <= 1 + ("HAS_SOURCE" in kernel["on"]), kernel
        terms = 1 + sum(switch in kernel["on"] for switch in ("HAS_ALSO", "HAS_MINUS"))
        wide = [name for name in kernel["memory"] if name in WIDE]
        assert len(wide) == terms + 2 * ("ACCUMULATE" in kernel["on"]) + (2 if kernel["out"] == "fp32" else 1), kernel


def test_a_switch_that_is_off_costs_nothing(kernels) -> None:
    """Without noise no Philox multiplication is left: two a round, and those of the index of a channel."""
    for kernel in kernels:
        noisy = "HAS_NOISE" in kernel["on"]
        assert kernel["products"] >= 32 if noisy else kernel["products"] <= 1, kernel
        terms = {"HAS_ALSO": "p_also", "HAS_MINUS": "p_minus", "ACCUMULATE": "p_c"}
        read = [pointer for switch, pointer in terms.items() if switch in kernel["on"]]
        assert kernel["offsets_64"] == sorted(["p_out", "p_plus", *read]), kernel
        numbers = {"HAS_NOISE": "p_caption", "HAS_SOURCE": "p_source"}
        single = [pointer for switch, pointer in numbers.items() if switch in kernel["on"]]
        assert kernel["offsets_32"] == sorted(["p_position", *single]), kernel
