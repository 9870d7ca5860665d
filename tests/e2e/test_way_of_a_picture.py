"""The lists of docs/ARCHITECTURE.md, "The way of one picture", against what runs."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from generate_cases import base_overrides, make_set, save_generator
from PIL import Image

import unseg

pytestmark = pytest.mark.e2e
ROOT = Path(unseg.__file__).resolve().parents[1]
SIDE = 20
"""Arrays with a smaller side are kernels of a network, not pictures."""

HELPERS = ("unseg/io/", "unseg/utils/")
"""Not repeated in the lists, as the page says."""


def is_picture(value: Any, depth: int = 0) -> bool:
    """Whether a value is, or holds, pixels or noise of a picture."""
    if isinstance(value, np.ndarray):
        return value.ndim == 3 and value.shape[2] <= 4 and min(value.shape[:2]) >= SIDE
    if isinstance(value, torch.Tensor):
        return value.ndim >= 3 and value.shape[-3] == 3 and min(value.shape[-2:]) >= SIDE
    if depth < 2 and isinstance(value, (list, tuple)):
        return any(is_picture(item, depth + 1) for item in value[:4])
    if depth < 2 and dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return any(is_picture(getattr(value, name, None), depth + 1) for name in names)
    return isinstance(value, Image.Image)


class Trace:
    """Files of the package whose functions ran, and those that were handed or gave a picture."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.handed: set[str] = set()

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(f"{ROOT}/unseg/"):
            return
        file = Path(code.co_filename).relative_to(ROOT).as_posix()
        if code.co_flags & 2:  # a function's, not a module's or a class's body
            self.ran.add(file)
        if file in self.handed:
            return
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        values = [frame.f_locals.get(name) for name in names if name != "self"]
        if any(map(is_picture, values if event == "call" else [result])):
            self.handed.add(file)


def traced(run: Callable[[], int]) -> Trace:
    trace, before = Trace(), sys.getprofile()
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        assert run() == 0
    finally:
        sys.setprofile(before)
        threading.setprofile(None)
    return trace


def listed(title: str) -> set[str]:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text().split("## The way of one picture")[1]
    section = re.split(r"^#+ ", text.split(f"### {title}\n")[1], flags=re.MULTILINE)[0]
    return set(re.findall(r"^\d+\. `([\w/]+\.py)`", section, re.MULTILINE))


def train(place: Path) -> list[str]:
    pairs = make_set(place / "pairs", 4, size=(48, 52))
    names = [f"images/{i:03d}.png\tmasks/{i:03d}.png\n" for i in range(4)]
    (pairs / "pairs.txt").write_text("".join(names))
    return [
        str(ROOT / "configs/train/unseg_vit_b_debug.yaml"), "device=cpu", "data.source=lists",
        "data.train_lists=[pairs.txt]", "data.validation_lists=[]", f"data.root={pairs}",
        "generator.image_size=128", "surrogate.image_size=32", "loss.num_points=16",
        "data.num_workers=0", "schedule.epochs=1", f"output.dir={place}/runs",
    ]  # fmt: skip


def generate(place: Path) -> list[str]:
    root = make_set(place / "set", 2, size=(48, 40))
    path = save_generator(place / "generator.safetensors")
    config = ROOT / "configs/generate/medical_kvasir.yaml"
    more = ("data.list_file=list.txt", f"generator.path={path}")
    return [str(config), *base_overrides(root, place / "out"), *more]


def evaluate(place: Path) -> list[str]:
    make_set(place / "set", 8, size=(48, 40))
    path = save_generator(place / "generator.safetensors")
    files = {"format": "binary_mask", "root": f"{place}/set", "images": "images", "labels": "masks"}
    recipe = {"image_size": 32, "epochs": 1, "batch_size": 4, "lr": 0.003}
    config = {
        "run_dir": f"{place}/evaluation",
        "title": "The way of one picture",
        "device": "cpu",
        "data": {"set": {"train": files, "test": files}},
        "methods": {"unseg": {"method": "unseg", "generator": str(path)}},
        "victims": {"unet": {"arch": "unet_plain", "tiny": True, "recipe": recipe}},
        "grid": [{"data": ["set"], "methods": ["clean", "unseg"], "victims": ["unet"]}],
    }
    path = place / "evaluate.yaml"
    path.write_text(yaml.safe_dump(config))
    return [str(path)]


WAYS = {"Training": train, "Generation": generate, "Evaluation": evaluate}


@pytest.mark.parametrize("title", WAYS)
def test_every_file_that_is_handed_the_picture_is_listed_and_every_listed_one_runs(
    title: str, tmp_path: Path
) -> None:
    arguments = WAYS[title](tmp_path)
    command = importlib.import_module(f"unseg.commands.{WAYS[title].__name__}").main
    trace = traced(lambda: command(arguments))
    # Evaluation is listed beyond generation, which names the parts of networks as training does.
    known = set().union(*(listed(way) for way in list(WAYS)[: list(WAYS).index(title) + 1]))
    surprise = {file for file in trace.handed - known if not file.startswith(HELPERS)}
    assert surprise == set()
    assert listed(title) - trace.ran == set()
