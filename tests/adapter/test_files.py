"""An adapter's folder: what is in it, and that it is as it was written or refused before anything heavy is loaded."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from llmdiff import LLMDiffPipeline, load_adapter
from llmdiff.adapter import LLMAdapter, cross_attention_shapes
from llmdiff.adapter.files import check_adapter
from llmdiff.model_files.manifest import checksum_of
from tests.adapter import tiny
from tests.damage import DAMAGES, cut, flip

NAMES = ("adapter.safetensors", "adapter_config.json", "manifest.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.adapter(tiny.unet()).save(tmp_path_factory.mktemp("saved") / "adapter")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "adapter")


WAYS: dict[str, Callable[[Path], object]] = {
    "check": check_adapter,
    "load": lambda folder: LLMAdapter.load(folder, tiny.unet()),
    "into a pipeline": lambda folder: load_adapter(tiny.pipeline(), folder, "no LLM is looked for"),
    "with a base": lambda folder: LLMDiffPipeline.from_pretrained("no base is looked for", folder),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_damaged_in_any_way_it_is_refused(folder: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(folder / name)
    if not (folder / "manifest.json").exists():
        check_adapter(folder)  # as an earlier version's
        return
    with pytest.raises((ValueError, FileNotFoundError), match=rf"^{folder / name}: (damaged: expected|not found)"):
        check_adapter(folder)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_load_it_refuses_a_flipped_bit(folder: Path, way: Callable[[Path], object]) -> None:
    flip(folder / "adapter.safetensors")
    with pytest.raises(ValueError, match=r"adapter\.safetensors: damaged: expected CRC-32 [0-9a-f]{8}, found "):
        way(folder)


def test_weights_of_one_adapter_and_the_settings_of_another_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tiny.adapter(tiny.unet(), {"llm": "another"}).save(tmp_path / "other")
    shutil.copy(other / "adapter_config.json", folder)
    with pytest.raises(ValueError, match=r"adapter_config\.json: damaged: expected \d+ bytes, found \d+"):
        LLMAdapter.load(folder, tiny.unet())


def test_an_earlier_versions_loads_by_its_sizes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "manifest.json").unlink()
    LLMAdapter.load(folder, tiny.unet())
    assert caplog.messages == [
        f"{folder}: no manifest.json, as earlier versions wrote adapters: sizes alone were checked"
    ]
    cut(folder / "adapter.safetensors")
    for way in WAYS.values():
        with pytest.raises(ValueError, match=r"adapter\.safetensors: expected \d+ bytes, found \d+: the file is cut"):
            way(folder)


@contextmanager
def memory_of_another_gigabyte() -> Iterator[None]:
    """Limit the address space to one gigabyte more than is in use."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context_dim": 10_000_000}, r"phi\.linear\.weight: expected \(10000000, 48\), found \(32, 48\)"),
        ({"encoding_dim": 10_000_000}, r"phi\.norm\.weight: expected \(10000000,\), found \(48,\)"),
        ({"encoding_dim": 10_000_000, "context_dim": 10_000_000, "refiner": 2}, r"refiner\S* is missing"),
        ({"bands": 10_000_000, "standardise": True}, r"phi\.g is missing"),
        ({"context_dim": 2**40}, r"adapter_config\.json: not an adapter configuration(?s:.*)context_dim"),
    ],
    ids=str,
)
def test_what_a_configuration_claims_is_compared_before_memory_is_taken(
    folder: Path, change: dict[str, object], message: str
) -> None:
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**about, **change}))
    (folder / "manifest.json").unlink()
    with memory_of_another_gigabyte(), pytest.raises(ValueError, match=message):
        LLMAdapter.load(folder, tiny.unet())


def test_weights_that_claim_the_same_are_refused_before_memory_is_taken(folder: Path) -> None:
    config, weights = folder / "adapter_config.json", folder / "adapter.safetensors"
    config.write_text(json.dumps({**json.loads(config.read_text()), "encoding_dim": 10_000_000}))
    data = weights.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].replace(b"[32,48]", b"[32,10000000]").replace(b"[48]", b"[10000000]")
    weights.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    (folder / "manifest.json").unlink()
    with (
        memory_of_another_gigabyte(),
        pytest.raises(ValueError, match=r"tensor '\S+': expected 40000000 bytes, found 192"),
    ):
        LLMAdapter.load(folder, tiny.unet())


@pytest.mark.parametrize("listed", ["[]", '{"adapter.safetensors": 1}', '{"adapter.safetensors": {"size": 1}}'])
def test_a_manifest_of_another_form_is_refused(folder: Path, listed: str) -> None:
    (folder / "manifest.json").write_text(f'{{"files": {listed}, "crc32": "{checksum_of(json.loads(listed))}"}}')
    with pytest.raises(ValueError, match=r"manifest\.json: damaged: expected a list of files, found "):
        check_adapter(folder)


def test_widths_are_compared_without_a_unet_too(folder: Path) -> None:
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**about, "context_dim": 10_000_000}))
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"encoding_dim \(10000000, 48\), but \S+ has a projection of \(32, 48\)"):
        check_adapter(folder)


def test_a_configuration_of_brackets_is_one_line(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[" * 100_000)
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"adapter_config\.json: not an adapter configuration"):
        check_adapter(folder)


def test_saved_adapter_loads_and_predicts_the_same(tmp_path) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, {"llm": "phi", "encoder_fingerprint": "f00"}, copy_original=False)
    adapter.install(unet)
    expected = tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    adapter.uninstall()
    adapter.save(tmp_path, dtype=torch.float32)
    names = ["adapter.safetensors", "adapter_config.json", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    loaded = LLMAdapter.load(tmp_path, unet)
    assert loaded.config == adapter.config
    loaded.install(unet)
    assert torch.equal(tiny.predict(unet, x, loaded.context(x["encodings"], x["mask"])), expected)


def test_files_hold_16_bit_matrices_and_whole_scalars(tmp_path) -> None:
    unet, x = tiny.unet(), tiny.inputs()
    adapter = tiny.adapter(unet, copy_original=False)
    adapter.install(unet)
    expected = tiny.predict(unet, x, adapter.context(x["encodings"], x["mask"]))
    adapter.uninstall()
    tensors = load_file(adapter.save(tmp_path) / "adapter.safetensors")
    for name, tensor in adapter.state().items():
        assert tensors[name].dtype == (torch.float16 if tensor.ndim == 2 else torch.float32)
        torch.testing.assert_close(tensors[name].float(), tensor, atol=1e-6, rtol=1e-3)
    loaded = LLMAdapter.load(tmp_path, unet)
    assert all(torch.equal(tensor, tensors[name].float()) for name, tensor in loaded.state().items())
    first = (tmp_path / "adapter.safetensors").read_bytes()
    assert (loaded.save(tmp_path) / "adapter.safetensors").read_bytes() == first
    loaded.install(unet)
    found = tiny.predict(unet, x, loaded.context(x["encodings"], x["mask"]))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_what_16_bits_cannot_hold_stays_whole(tmp_path) -> None:
    adapter = tiny.adapter(tiny.unet())
    with torch.no_grad():
        adapter.phi.linear.weight[0, 0] = 1e6
    adapter.save(tmp_path)
    assert torch.equal(LLMAdapter.load(tmp_path, tiny.unet()).phi.linear.weight, adapter.phi.linear.weight)


def test_the_file_for_stable_diffusion_1_5_is_of_91_megabytes() -> None:
    with torch.device("meta"):
        state = tiny.adapter(UNet2DConditionModel(**tiny.SD15), {"encoding_dim": 2048}).state()
    size = sum(tensor.numel() * (2 if tensor.ndim == 2 else 4) for tensor in state.values())
    assert round(size / 1e6) == 91


def test_keys_in_the_file_are_module_paths(tmp_path) -> None:
    unet = tiny.unet()
    keys = set(tiny.adapter(unet).state())
    paths = list(cross_attention_shapes(unet))
    assert {f"{path}.new.to_q.weight" for path in paths} < keys
    assert {"phi.linear.weight", f"{paths[0]}.a", f"{paths[0]}.b"} < keys


def test_an_adapter_of_another_unet_is_refused(tmp_path) -> None:
    tiny.adapter(tiny.unet(), {"base_model": "some-base"}).save(tmp_path)
    with pytest.raises(ValueError, match="another U-Net .*some-base"):
        LLMAdapter.load(tmp_path, tiny.unet(down_block_types=("CrossAttnDownBlock2D",) * 2))
    with pytest.raises(ValueError, match=r"expected \(64, 64\)|expected \(.*\), found"):
        LLMAdapter.load(tmp_path, tiny.unet(block_out_channels=(16, 64)))
    with pytest.raises(ValueError, match="context width 32, the U-Net .* of 40"):
        tiny.adapter(tiny.unet()).install(tiny.unet(cross_attention_dim=40))


def test_broken_files_are_named(tmp_path) -> None:
    unet = tiny.unet()
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        LLMAdapter.load(tmp_path / "nothing", unet)
    tiny.adapter(unet).save(tmp_path)
    (tmp_path / "manifest.json").unlink()
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "colour": "red"}))
    with pytest.raises(ValueError, match=r"adapter_config.json.*(?s:.*)colour"):
        LLMAdapter.load(tmp_path, unet)
