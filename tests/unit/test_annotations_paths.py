"""Lists, JSON files and prompt files: what they may name, and how faults are reported."""

import json

import pytest
from annotation_cases import (
    image,
    label,
    square,
    write_class_png,
    write_coco_instances,
)

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.raster import (
    decompress_counts,
)
from unseg.utils.errors import UserError


def read_first(config):
    source = build_source(config)
    return source.read(source.items()[0])


def list_config(root, text):
    for name in "ab":
        image(root / f"im/{name}.jpg")
        label(root / f"gt/{name}.png", square(255))
    (root / "list.txt").write_text(text)
    return DatasetConfig(
        format="binary_mask", root=str(root), images="im", labels="gt", list_file="list.txt"
    )


@pytest.mark.parametrize(
    "text", ["a\nb\n", "a.jpg\r\nb.jpg", "im/a.jpg gt/a.png\nim/b.jpg\tgt/b.png", "\n a \n\nb\na\n"]
)
def test_lists_name_stems_images_or_pairs(tmp_path, text):
    source = build_source(list_config(tmp_path, text))
    assert [item.key for item in source.items()] == ["a.jpg", "b.jpg"]
    assert [source.read(item).class_map.sum() for item in source.items()] == [24, 24]


@pytest.mark.parametrize(
    "line",
    ["../secret", "/etc/passwd.png", "sub/../../secret.jpg", "link", "folder/x.jpg",
     "im/a.jpg ../gt/a.png", "C:\\x.jpg", "..\\secret.jpg"],
)  # fmt: skip
def test_a_path_out_of_the_root_is_a_fault_of_its_entry_alone(tmp_path, line):
    image(tmp_path / "secret.jpg")
    root = tmp_path / "set"
    config = list_config(root, f"{line}\na\n")
    (root / "im/link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "im/folder").symlink_to(tmp_path)
    (tmp_path / "x.jpg").write_bytes((tmp_path / "secret.jpg").read_bytes())
    source = build_source(config)
    bad, good = source.items()
    assert bad.fault is not None
    assert "list.txt" in bad.fault
    assert bad.image_path.resolve().is_relative_to(root.resolve())
    with pytest.raises(UserError, match="below|symbolic"):
        source.read(bad)
    assert source.read(good).segments


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "link.jpg", None, 5])
def test_a_json_file_name_out_of_the_root_is_a_fault_of_its_image_alone(tmp_path, name):
    image(tmp_path / "secret.jpg")
    root = tmp_path / "set"
    root.mkdir()
    config = write_coco_instances(root)
    (root / "im/link.jpg").symlink_to(tmp_path / "secret.jpg")
    path = root / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["images"][0]["file_name"] = name
    path.write_text(json.dumps(content))
    source = build_source(config)
    bad, good = source.items()
    assert bad.fault is not None
    assert "instances.json" in bad.fault
    assert source.read(good).segments


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"boxes": [[1, 2, 3]]}, "lists of 4"),
        ({"boxes": [[9, 2, 3, 4]]}, "x0 <= x1"),
        ({"boxes": [[0, 0, 99, 4]]}, "lies outside of the image"),
        ({"points": [[1, float("nan")]]}, "lies outside of the image"),
        ({"points": [[1, 2]], "labels": [3]}, "0 or 1"),
        ({}, "neither boxes nor points"),
        ([1], "must hold"),
        ({"boxes": "abcd"}, "could not convert"),
    ],
)
def test_malformed_boxes_and_points_name_file_and_image(tmp_path, entry, fault):
    image(tmp_path / "im/a.jpg")
    (tmp_path / "p.json").write_text(json.dumps({"a.jpg": entry}))
    config = DatasetConfig(format="folder", root=str(tmp_path), images="im", annotations="p.json")
    with pytest.raises(UserError, match=rf"p.json: a.jpg: .*{fault}"):
        read_first(config)


@pytest.mark.parametrize(
    "damage", [b"", b"hello, I am text", None], ids=["empty", "text", "truncated"]
)
def test_an_unreadable_label_names_its_file(tmp_path, damage):
    config = write_class_png(tmp_path)
    path = tmp_path / "labels/a.png"
    path.write_bytes(path.read_bytes()[:-30] if damage is None else damage)
    with pytest.raises(UserError, match="labels/a.png"):
        read_first(config)


def test_compressed_counts_of_nothing_are_nothing():
    assert decompress_counts("") == []
