"""Generators as ONNX give torch's noise, in a program that has no torch in it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unseg.cli import main
from unseg.models.embedded import EMBEDDED
from unseg.models.formats import onnx as module
from unseg.models.formats.onnx import INPUTS, NUM_POINTS, OPSET, TORCH, no_prompts, save_onnx
from unseg.models.weights import load_generator
from unseg.types import Prompts
from unseg.utils.errors import UserError

EPSILON = 8
HALF_A_LEVEL = 0.5
OURS = 0.01
"""Levels by which we are content to differ."""

has_exporter = tuple(map(int, torch.__version__.split(".")[:2])) >= TORCH


def scene(generator) -> tuple[torch.Tensor, Prompts]:
    """An image of the generator's size, and prompts of all kinds for it."""
    side, mask_side = generator.image_size, generator.noise_size
    y, x = np.mgrid[:side, :side] / side
    image = torch.tensor(np.stack([x, y, (x - 0.5) ** 2 + (y - 0.5) ** 2]), dtype=torch.float32)
    mask = torch.zeros(1, 1, mask_side, mask_side)
    mask[..., 10:40, 20:50] = 255
    return image[None], Prompts(
        boxes=torch.tensor([[30.0, 20.0, 90.0, 80.0]]),
        point_coords=torch.tensor([[[50.0, 40.0], [10.0, 100.0]]]),
        point_labels=torch.tensor([[1, 0]]),
        mask_inputs=mask,
    )


def inputs_of(generator, image: torch.Tensor, prompts: Prompts) -> dict[str, np.ndarray]:
    """What the graph takes for an image and prompts."""
    values = dict(zip(INPUTS, no_prompts(generator), strict=True)) | {"image": image}
    if prompts.boxes is not None:
        values["boxes"] = prompts.boxes
    if prompts.mask_inputs is not None:
        values["mask_inputs"] = prompts.mask_inputs
    if prompts.point_coords is not None and prompts.point_labels is not None:
        empty = NUM_POINTS - prompts.point_coords.shape[1]
        values["point_coords"] = F.pad(prompts.point_coords, (0, 0, 0, empty))
        values["point_labels"] = F.pad(prompts.point_labels, (0, empty), value=-2).int()
    return {name: value.numpy() for name, value in values.items()}


@pytest.mark.slow
@pytest.mark.skipif(not has_exporter, reason="torch is older than its exporter for torch.export")
@pytest.mark.parametrize("name", [name for name in EMBEDDED if name != "pattern"])
def test_the_graph_gives_torchs_noise_whatever_the_prompt(name, tmp_path, capsys):
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    path = tmp_path / f"{name}.onnx"
    assert main(["weights", "export-onnx", name, str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["bytes"], said["opset"]) == (path.stat().st_size, OPSET)
    assert [(o.domain, o.version) for o in onnx.load(path).opset_import if not o.domain] == [
        ("", OPSET)
    ]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    generator = load_generator(name)
    assert json.loads(metadata["unseg"]) == generator.build_arguments
    image, every = scene(generator)
    kinds = {
        "none": Prompts(),
        "box": Prompts(boxes=every.boxes),
        "points": Prompts(point_coords=every.point_coords, point_labels=every.point_labels),
        "mask": Prompts(mask_inputs=every.mask_inputs),
        "all": every,
    }
    for kind, prompts in kinds.items():
        with torch.inference_mode():
            expected = generator(image, prompts).numpy()
        (found,) = session.run(["noise"], inputs_of(generator, image, prompts))
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 0.5, "there is no noise to compare"
        difference = EPSILON * np.abs(found - expected).max()
        assert difference < OURS < HALF_A_LEVEL, f"{kind}: {difference:.4f} levels"


def test_what_cannot_be_written_is_said_in_one_line(tmp_path: Path, monkeypatch) -> None:
    generator = load_generator("default")
    with pytest.raises(UserError, match=r"end the name in \.onnx"):
        save_onnx(generator, tmp_path / "a.pth")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'onnx and onnxscript: pip install "unseg\[onnx\]"'):
        save_onnx(generator, tmp_path / "a.onnx")
    monkeypatch.undo()
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(module, "TORCH", (99, 0))
    with pytest.raises(UserError, match=r"ONNX needs torch 99\.0, found "):
        save_onnx(generator, tmp_path / "a.onnx")
    monkeypatch.setattr(module, "TORCH", (2, 0))
    monkeypatch.setattr(module, "_MAX_BYTES", 1000)
    with pytest.raises(UserError, match="ONNX takes up to 1,000"):
        save_onnx(generator, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
