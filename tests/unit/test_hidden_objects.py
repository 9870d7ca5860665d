"""Pictures whose objects a network that knows the clean ones no longer sees."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/evaluate/sizes_debug.yaml")


def test_the_victim_is_turned_away_within_the_budget(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("hidden", ROOT / "scripts/hidden_objects.py")
    hidden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hidden)
    hidden.EPSILON, hidden.EPSILON_BG = 40, 10  # scenes are easier than photographs
    out, run = tmp_path / "out", tmp_path / "run"
    recipe = "victims.scratch_fixed.recipe"
    options = [f"run_dir={run}", f"{recipe}.steps=40", f"{recipe}.lr=0.01"]
    assert hidden.main([CONFIG, "humans", "scratch_fixed", str(out), *options]) == 0
    clean, changed = (float(n) for n in re.findall(r"IoU ([\d.]+) %", capsys.readouterr().out))
    assert clean > 60
    assert changed < clean - 20
    written = sorted(out.glob("*.png"))
    assert len(written) == 8
    for path in written:
        image = next(run.rglob(f"train/images/{path.stem}.png"))
        label = cv2.imread(str(next(run.rglob(f"train/labels/{path.stem}.png"))), 0)
        change = cv2.imread(str(path)).astype(int) - cv2.imread(str(image)).astype(int)
        assert np.abs(change)[label == 1].max() == 40
        assert np.abs(change)[label == 0].max() <= 10
