"""`pattern`: what that stands where a generator may."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from generate_cases import (
    entries_of,
    make_config,
    make_image,
    make_set,
    protect_set,
    tree_bytes,
)
from safetensors.torch import save_file

import unseg
from unseg.commands.weights import main as weights
from unseg.io.files import sha256_file
from unseg.models.formats.pattern import save_pattern
from unseg.models.pattern import Pattern
from unseg.models.weights import embedded_path, load_generator, load_noise
from unseg.noise import Carrier
from unseg.protection.run import generate
from unseg.types import Prompts
from unseg.utils.errors import UserError

CARRIER = "opponent, sharp"


def test_the_shipped_file_is_what_its_script_writes_and_its_card_says(tmp_path, monkeypatch):
    path = tmp_path / "pattern.safetensors"
    script = Path(__file__).parents[2] / "scripts/make_pattern.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(path)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    assert path.read_bytes() == embedded_path("pattern").read_bytes()
    card = embedded_path("pattern").with_suffix(".md").read_text(encoding="utf-8")
    assert sha256_file(path) in card
    for heading in ("Training", "Data and terms", "Measured protection", "Limits"):
        assert f"## {heading}" in card


def test_its_noise_is_the_same_for_every_picture_and_prompt():
    pattern = load_noise("pattern")
    images = torch.rand(2, 3, pattern.image_size, pattern.image_size)
    noise = pattern(images, Prompts(boxes=torch.tensor([[1.0, 1, 9, 9], [5, 5, 40, 40]])))
    assert noise.shape == (2, 3, 24, 24)
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0, 0], -noise[0, 1])
    assert torch.equal(noise[0, :, 1:], -noise[0, :, :-1])


def test_pictures_are_those_of_the_untrained_control_on_its_carrier(tmp_path):
    root = make_set(tmp_path / "in", 4, size=(70, 90))
    same = ["method=checks", "noise.grid=24", f"noise.carrier={CARRIER}", "noise.epsilon_bg=0"]
    protect_set(root, tmp_path / "a", *same)
    generate(make_config(root, tmp_path / "b", "generator.path=pattern"))
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")
    assert {entry["status"] for entry in entries_of(tmp_path / "b").values()} == {"protected"}


@pytest.mark.parametrize("shape", [(60, 90), (60, 90, 3), (1, 300, 3)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_arrays_of_any_kind_keep_the_budget_and_grey_carries_brightness(shape, kind):
    flat = np.full(shape, np.iinfo(kind).max // 2, kind)
    result = unseg.protect(flat, generator=unseg.load_generator("pattern"), epsilon=4, epsilon_bg=1)
    level = 257 if kind is np.uint16 else 1
    assert set(np.unique(abs(result.noise))) == {4 * level}
    if flat.ndim == 3:
        assert np.array_equal(result.noise[..., 0], -result.noise[..., 1])


def test_outside_it_changes_nothing_unless_told_to():
    image, mask = make_image(1, 40, 60), np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    pattern = unseg.load_generator("pattern")
    report = unseg.protect(image, mask=mask, generator=pattern).report
    assert (report["linf_inside"], report["linf_outside"], report["epsilon_bg"]) == (8, 0, 0)
    assert (
        unseg.protect(image, mask=mask, generator=pattern, epsilon_bg=2).report["epsilon_bg"] == 2
    )
    assert unseg.protect(image, mask=mask, generator=pattern, epsilon=1).report["epsilon_bg"] == 0
    # A network's own bound is the paper's, and so may be above the one inside.
    assert unseg.protect(image, mask=mask).report["epsilon_bg"] == 2
    with pytest.raises(UserError, match=r"epsilon_bg=2: need 0 <= epsilon_bg <= epsilon"):
        unseg.protect(image, mask=mask, epsilon=1)


def test_a_pattern_is_no_network_and_says_so(tmp_path, capsys):
    for command, suffix in (("export", ".pth"), ("export-onnx", ".onnx")):
        assert weights([command, "pattern", str(tmp_path / f"x{suffix}")]) == 2
        assert "holds a pattern, no network" in capsys.readouterr().err
    with pytest.raises(UserError, match="holds a pattern, no network"):
        load_generator("pattern")
    assert weights(["inspect", "pattern", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["kind"], facts["carrier"], facts["values"]) == ("pattern", CARRIER, 3 * 24 * 24)


def test_other_patterns_load_as_they_were_saved(tmp_path):
    signs = torch.randint(0, 2, (3, 5, 5)) * 2.0 - 1
    save_pattern(Pattern(signs, Carrier.parse("rgb")), tmp_path / "p.safetensors")
    pattern = load_noise(tmp_path / "p.safetensors")
    assert torch.equal(pattern(torch.rand(1, 3, 20, 20), Prompts())[0], signs)
    image = make_image(1, 30, 40)
    assert unseg.protect(image, generator=pattern).report["linf_inside"] == 8


BROKEN = {
    "no tensor": ({"other": torch.zeros(3, 4, 4)}, "rgb", "holds no pattern"),
    "not square": ({"noise": torch.zeros(3, 4, 5)}, "rgb", r"is not \(3, n, n\)"),
    "too loud": ({"noise": torch.full((3, 4, 4), 1.5)}, "rgb", r"is not \(3, n, n\)"),
    "not finite": ({"noise": torch.full((3, 4, 4), torch.nan)}, "rgb", r"is not \(3, n, n\)"),
    "unknown carrier": ({"noise": torch.zeros(3, 4, 4)}, "violet", "'violet' is no band"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pattern_is_named(name, tmp_path):
    tensors, carrier, message = BROKEN[name]
    path = tmp_path / "p.safetensors"
    header = {"format": "unseg-pattern", "version": 1, "carrier": carrier}
    save_file(tensors, path, metadata={"unseg": json.dumps(header)})
    with pytest.raises(UserError, match=message):
        load_noise(path)
