"""What our programs spare themselves of other packages' imports, and that nobody misses it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import transformers.models
from diffusers import LMSDiscreteScheduler

from infra.environment import child_environment
from llmdiff.process import spared_imports
from llmdiff.process.spared_imports import CHANGES, LATER, Spared

NAMES = {
    "diffusers.utils.import_utils": ("_package_map", "_peft_available"),
    "gradio.component_meta": ("create_or_modify_pyi",),
    "torchmetrics": ("functional", "image"),
    "transformers.loss.loss_utils": (),
    "transformers.utils.import_utils": ("create_import_structure_from_path", "is_kernels_available"),
    "transformers.utils": ("is_scipy_available",),
}
"""What is changed in the modules of other packages."""


@pytest.mark.parametrize("module", [name for name in NAMES if not name.startswith("gradio")])
def test_what_is_changed_is_there(module: str) -> None:
    """Where this fails, a new version imports its modules in another way: see whether it is spared yet."""
    found = import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []


def test_what_is_changed_of_gradio_is_there() -> None:
    """The sources are read, for importing Gradio takes seconds."""
    package = find_spec("gradio")
    if package is None or package.origin is None:
        pytest.skip("no Gradio")
    source = Path(package.origin).with_name("component_meta.py").read_text()
    assert [name for name in NAMES["gradio.component_meta"] if f"\ndef {name}(" not in source] == []
    assert source.count("create_or_modify_pyi(") == 2, "defined, and called"


def test_every_change_is_pinned() -> None:
    assert CHANGES.keys() <= NAMES.keys()


SCRIPT = """
import json, sys
from importlib import metadata
from llmdiff.process.spared_imports import spare_imports
spare_imports()
import llmdiff.encoder.encoder, llmdiff.pipeline, llmdiff.sampling
found = [name for name in json.loads(sys.argv[1]) if name in sys.modules]
import transformers.models
from diffusers import EulerDiscreteScheduler, LMSDiscreteScheduler
euler, lms = EulerDiscreteScheduler(use_beta_sigmas=True), LMSDiscreteScheduler()
for sampler in (euler, lms):
    sampler.set_timesteps(5)
print(json.dumps({
    "heavy": found,
    "sigmas": euler.sigmas.tolist(),
    "coefficient": lms.get_lms_coefficient(2, 3, 1),
    "torch": metadata.packages_distributions()["torch"],
    "no models": sorted({*json.loads(sys.argv[2])}.difference(dir(transformers.models))),
}))
"""
HEAVY = ["deepspeed", "deltalake", "mlflow", "prefect", "pyarrow", "storage", "zarr"]
"""A pipeline with an adapter is drawn from without the store, the engine and the registry."""
SPARED = ["peft", "scipy.integrate._quadrature", "scipy.optimize", "scipy.stats._stats_py"]


@pytest.mark.process
def test_drawing_imports_less_and_misses_nothing() -> None:
    from scipy.stats import beta

    families = [path.parent.name for path in Path(transformers.models.__path__[0]).glob("*/__init__.py")]
    command = [sys.executable, "-c", SCRIPT, json.dumps([*HEAVY, *SPARED]), json.dumps(families)]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["heavy"] == []
    largest, *between, smallest, end = found["sigmas"]
    shares = beta.ppf(1 - np.linspace(0, 1, 5), 0.6, 0.6)[1:-1]
    assert between == pytest.approx(smallest + shares * (largest - smallest))
    assert end == 0
    lms = LMSDiscreteScheduler()
    lms.set_timesteps(5)
    before, here, following = lms.sigmas.tolist()[2:5]
    area = (following - here) ** 2 / (2 * (before - here))  # of the line that is 1 at the one before, and 0 here
    assert found["coefficient"] == pytest.approx(area)
    assert found["torch"] == ["torch"]
    assert found["no models"] == ["deprecated"]  # a folder of folders


def test_what_comes_later_is_there() -> None:
    assert [name for name in LATER if find_spec(name) is None] == []


def test_a_module_runs_when_something_of_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "comes_later.py").write_text("print('runs')\n__all__ = ['one', 'two']\none, two = 1, 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(spared_imports, "LATER", ("comes_later",))
    monkeypatch.setattr(sys, "meta_path", [Spared({}), *sys.meta_path])
    names: dict[str, int] = {}
    try:
        module = import_module("comes_later")
        assert import_module("comes_later") is module
        assert not hasattr(module, "__version__")
        assert capsys.readouterr().out == ""
        assert module.one == 1
        exec("from comes_later import *", names)
        assert (names["one"], names["two"], module.two) == (1, 2, 2)
        assert capsys.readouterr().out == "runs\n"
        with pytest.raises(AttributeError, match="three"):
            _ = module.three
    finally:
        sys.modules.pop("comes_later", None)
