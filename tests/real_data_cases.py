"""What the copies of real data sets below UNSEG_DATA hold, by their own lists."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

FACTS = yaml.safe_load(Path(__file__).with_name("real_data.yaml").read_text(encoding="utf-8"))
MIN_SHARE = 0.01
"""Of an image, for the instances that are counted."""


def expected_count(root: Path, name: str) -> int:
    """Items of a data set, by `real_data.yaml`; the test is skipped where the set is not there."""
    facts = dict(FACTS[name])
    known = facts.pop("known", {})
    (kind, place), = facts.items()  # fmt: skip
    if kind == "files":
        paths = sorted(path.relative_to(root).as_posix() for path in root.glob(place))
        content, count = "".join(f"{path}\n" for path in paths).encode(), len(paths)
    else:
        path = root / place
        content = path.read_bytes() if path.is_file() else b""
        count = _count(kind, content) if content else 0
    if not count:
        pytest.skip(f"{root / place}: this copy of the real data lacks it")
    checksum = hashlib.sha256(content).hexdigest()
    assert known.get(checksum, count) == count, f"{name} {place} {checksum}"
    return count


def need(root: Path, *places: str) -> None:
    """Skip the test where one of these paths is not there."""
    for place in places:
        if not (root / place).exists():
            pytest.skip(f"{root / place}: this copy of the real data lacks it")


def _count(kind: str, content: bytes) -> int:
    if kind == "lines":
        return sum(bool(line.strip()) for line in content.splitlines())
    parsed = json.loads(content)
    if kind == "images":
        return len(parsed["images"])
    pixels = {image["id"]: image["height"] * image["width"] for image in parsed["images"]}
    return sum(
        not one.get("iscrowd") and one["area"] >= MIN_SHARE * pixels[one["image_id"]]
        for one in parsed["annotations"]
    )
