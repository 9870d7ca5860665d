"""The index of a large JSON file is made once, and kept by size and time of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from unseg.data.annotations import json_index
from unseg.data.annotations.json_index import JsonIndex


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(json_index, "MIN_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write(tmp_path / "labels.json", 5)


def write(path: Path, count: int) -> Path:
    images = [{"id": i, "file_name": f"é{i}.jpg", "height": 4, "width": 5} for i in range(count)]
    annotations = [{"id": i, "image_id": i % (count + 1)} for i in range(3 * count)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen, elements = [], json_index._elements

    def counted(text: str):
        seen.append(len(text))
        return elements(text)

    monkeypatch.setattr(json_index, "_elements", counted)
    return seen


def test_a_kept_index_equals_a_new_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = passes(monkeypatch)
    first, again = JsonIndex(path), JsonIndex(path)
    assert len(seen) == 1
    assert first.images == again.images
    assert first.categories == again.categories
    assert first.num_orphans == again.num_orphans == 2
    for position in range(5):
        assert first.annotations(position) == again.annotations(position) != []
    np.testing.assert_array_equal(first._spans, again._spans)


def test_a_changed_file_and_a_damaged_index_are_passed_over_again(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    JsonIndex(path)
    seen = passes(monkeypatch)
    write(path, 6)
    assert len(JsonIndex(path).images) == 6
    for kept in (tmp_path / "cache/unseg/json").glob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:-40])
    assert len(JsonIndex(path).images) == 6
    os.utime(path, ns=(1, 1))
    assert len(JsonIndex(path).images) == 6
    assert len(seen) == 3


def test_small_files_leave_nothing_and_a_folder_that_cannot_be_made_is_no_fault(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_index, "MIN_BYTES", 10**6)
    assert len(JsonIndex(path).images) == 5
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(json_index, "MIN_BYTES", 0)
    (tmp_path / "cache").write_text("a file")
    assert len(JsonIndex(path).images) == 5
