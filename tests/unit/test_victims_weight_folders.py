"""Folders that `save_pretrained` wrote load completely or not at all, and run nothing."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unseg.utils.errors import UserError
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import Victim
from unseg.victims.networks.weights import load_weights

ARCHITECTURES = (
    "segformer_b0",
    "mask2former_resnet50",
    "mask2former_swin_t",
    "deformable_detr_resnet50",
    "rtdetrv2_resnet50",
    "sam_hq_vit_b",
)


def tiny(arch: str, num_classes: int = 2) -> Victim:
    return build_victim(arch, num_classes=num_classes, tiny=True, image_size=64)


def donor(arch: str) -> Victim:
    """A victim of which no two tensors are alike."""
    victim = tiny(arch)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for value in victim.state_dict().values():
            value.add_(torch.rand(value.shape, generator=rng) if value.is_floating_point() else 3)
    return victim


def assert_alike(found: nn.Module, wanted: nn.Module) -> None:
    state = found.state_dict()
    assert state.keys() == wanted.state_dict().keys()
    for name, value in wanted.state_dict().items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_folder_of_a_network_loads_without_a_word(
    tmp_path: Path, arch: str, capfd: pytest.CaptureFixture[str]
) -> None:
    network = donor(arch).network
    network.save_pretrained(tmp_path)
    victim = tiny(arch)
    capfd.readouterr()
    assert load_weights(victim, tmp_path) == "network"
    assert capfd.readouterr() == ("", "")
    assert_alike(victim.network, network)


@pytest.mark.parametrize("arch", ["segformer_b0", "deformable_detr_resnet50"])
def test_a_folder_with_a_torch_file_loads_alike(tmp_path: Path, arch: str) -> None:
    network = donor(arch).network
    network.save_pretrained(tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    victim = tiny(arch)
    load_weights(victim, tmp_path)
    assert_alike(victim.network, network)


def test_a_folder_of_an_encoder_loads_whatever_the_classes(tmp_path: Path) -> None:
    first, second = donor("segformer_b0").network.segformer, donor("mask2former_swin_t").network
    second = second.model.pixel_level_module.encoder
    for arch, encoder in (("segformer_b0", first), ("mask2former_swin_t", second)):
        encoder.save_pretrained(tmp_path / arch)
        victim = tiny(arch, num_classes=7)
        part = load_weights(victim, tmp_path / arch)
        assert_alike(victim.network.get_submodule(part), encoder)


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "network: 1 keys missing, first decode_head.classifier.bias": lambda s: s.pop(
        "decode_head.classifier.bias"
    ),
    "network: 1 keys unexpected, first extra": lambda s: s.update(extra=torch.ones(1)),
    # Another number of classes does not fit, as with files of every other kind.
    "network: 1 keys of another shape, first decode_head.classifier.bias": lambda s: s.update(
        {"decode_head.classifier.bias": torch.ones(7)}
    ),
}


@pytest.mark.parametrize(("message", "change"), FAULTS.items(), ids=["less", "more", "classes"])
def test_a_folder_that_does_not_fit_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path,
    message: str,
    change: Callable[[dict[str, Any]], object],
    capfd: pytest.CaptureFixture[str],
) -> None:
    donor("segformer_b0").network.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    victim = tiny("segformer_b0")
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    capfd.readouterr()
    with pytest.raises(UserError, match=message) as raised:
        load_weights(victim, tmp_path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")
    for name, value in victim.state_dict().items():
        assert torch.equal(value, before[name]), name


class Payload:
    """A pickle of this makes a folder when it is loaded carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_nothing_else_in_a_folder_is_read_or_run(tmp_path: Path) -> None:
    folder, marker = tmp_path / "model", tmp_path / "code-has-run"
    network = donor("segformer_b0").network
    network.save_pretrained(folder)
    program = pickle.dumps(Payload(marker))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "auto_map": {}}))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')
    for name in ("pytorch_model.bin", ".metadata", "optimizer.pt"):
        (folder / name).write_bytes(program)
    victim = tiny("segformer_b0")
    load_weights(victim, folder)
    assert_alike(victim.network, network)
    (folder / "model.safetensors").unlink()
    for protocol in (2, 5):
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker), protocol))
        with pytest.raises(UserError, match=r"pytorch_model\.bin: is a plain pickle"):
            load_weights(victim, folder)
    torch.save({"a": Payload(marker)}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: refused"):
        load_weights(victim, folder)
    assert not marker.exists()
    pickle.loads(program)
    assert marker.exists(), "the pickle is harmless, and this test proves nothing"
