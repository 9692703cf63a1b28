"""Packages that the light core does not bring, and the extra of llmdiff that brings each."""

from __future__ import annotations

from importlib.util import find_spec

PACKAGES = {  # by import name: the usual name, and the smallest extra that brings it
    "crc32c": ("crc32c", "store"),
    "deltalake": ("Delta Lake", "store"),
    "httpcore": ("HTTPCore", "store"),
    "httpx": ("HTTPX", "store"),
    "obstore": ("obstore", "store"),
    "pyarrow": ("PyArrow", "store"),
    "zarr": ("Zarr", "store"),
    "zarrs": ("zarrs", "store"),
    "deepspeed": ("DeepSpeed", "train"),
    "jinja2": ("Jinja", "pipelines"),
    "matplotlib": ("Matplotlib", "pipelines"),
    "mlflow": ("MLflow", "pipelines"),
    "pandas": ("pandas", "pipelines"),
    "prefect": ("Prefect", "pipelines"),
    "scipy": ("SciPy", "pipelines"),
    "torchmetrics": ("TorchMetrics", "pipelines"),
    "gradio": ("Gradio", "app"),
    "prefect_ray": ("prefect-ray", "ray"),
    "ray": ("Ray", "ray"),
    "gguf": ("gguf", "gguf"),
    "bitsandbytes": ("bitsandbytes", "quantized"),
    "torchao": ("torchao", "quantized"),
    "boto3": ("boto3", "servers"),
    "psycopg2": ("psycopg2", "servers"),
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return one line that says what to install, or None where no extra brings the module that is missing."""
    if error.name not in PACKAGES:
        return None
    title, extra = PACKAGES[error.name]
    return f"this needs {title}: pip install 'llmdiff[{extra}]'"


def require_for(package: str, what: str) -> None:
    """Raise a ModuleNotFoundError that names `what` and the extra, if a package of `PACKAGES` is not installed."""
    title, extra = PACKAGES[package]
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"{what} needs {title}: pip install 'llmdiff[{extra}]'", name=package)


def require(package: str) -> None:
    """Raise the ModuleNotFoundError that importing a package of `PACKAGES` would raise, without importing it.

    A command that runs a flow asks for Prefect first: what it would miss on the way there is in a smaller extra.
    """
    assert package in PACKAGES
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
