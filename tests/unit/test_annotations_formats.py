"""What class ids, masks, panoptic and Cityscapes labels mean."""

import numpy as np
import pytest
from annotation_cases import (
    HEIGHT,
    WIDTH,
    image,
    label,
    square,
    write_cityscapes,
    write_class_png,
    write_colour_map,
    write_panoptic,
)
from PIL import Image

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import build_source, contiguous_classes
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


def read_first(config):
    source = build_source(config)
    return source.read(source.items()[0])


def test_palette_indices_are_class_ids_and_void_is_void(tmp_path):
    annotation = read_first(write_class_png(tmp_path))
    assert (annotation.class_map[2:6, 3:9] == 2).all()
    assert (annotation.class_map[0] == VOID_CLASS).all()
    assert [s.category for s in annotation.segments] == [2]


@pytest.mark.parametrize(
    ("options", "stored", "expected"),
    [
        ({"num_classes": 150, "reduce_zero_label": True, "void": (255,)}, [0, 1, 150, 255],
         [VOID_CLASS, 0, 149, VOID_CLASS]),
        ({"num_classes": 150, "void": (255,)}, [0, 149, 255], [0, 149, VOID_CLASS]),
        ({"num_classes": 3, "class_offset": 1}, [0, 1], [1, 2]),
        ({"num_classes": 11, "void": (11,)}, [0, 10, 11], [0, 10, VOID_CLASS]),
    ],
)  # fmt: skip
def test_stored_values_become_class_ids(tmp_path, options, stored, expected):
    image(tmp_path / "im/a.png")
    values = np.resize(np.array(stored, np.uint8), (HEIGHT, WIDTH))
    label(tmp_path / "gt/a.png", values)
    config = DatasetConfig(
        format="class_png", root=str(tmp_path), images="im", labels="gt", **options
    )
    found = read_first(config).class_map
    assert found.ravel()[: len(expected)].tolist() == expected


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_class_pictures_of_few_bits_keep_their_stored_numbers(tmp_path, bits):
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    top = (1 << bits) - 1
    row = np.arange(WIDTH) % (top + 1)
    per_byte = 8 // bits
    packed = bytes(
        sum(int(v) << (8 - bits * (k + 1)) for k, v in enumerate(row[i : i + per_byte]))
        for i in range(0, WIDTH, per_byte)
    )
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, 0)
    body = zlib.compress((b"\0" + packed) * HEIGHT)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    image(tmp_path / "im/a.png")
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt/a.png").write_bytes(data)
    config = DatasetConfig(
        format="class_png", root=str(tmp_path), images="im", labels="gt", num_classes=top + 1
    )
    assert np.array_equal(read_first(config).class_map[3], row)


def test_a_class_id_out_of_range_names_file_id_and_range(tmp_path):
    image(tmp_path / "im/a.png")
    label(tmp_path / "gt/a.png", square(77))
    config = DatasetConfig(
        format="class_png",
        root=str(tmp_path),
        images="im",
        labels="gt",
        num_classes=21,
        void=(255,),
    )
    with pytest.raises(UserError, match=r"gt/a.png: class id 77 out of range; .* 0-20, 255"):
        read_first(config)


def test_the_nearest_colour_is_the_class(tmp_path):
    annotation = read_first(write_colour_map(tmp_path))
    assert (annotation.class_map[3:6] == 1).all()
    assert (annotation.class_map[:3] == 0).all()


def test_contiguous_classes_number_the_ids_in_order():
    class_map = np.array([[7, 33, VOID_CLASS], [26, 8, 7]], np.int32)
    assert contiguous_classes(class_map, (7, 26, 33)).tolist() == [
        [0, 2, VOID_CLASS],
        [1, VOID_CLASS, 0],
    ]


def mask_config(root):
    return DatasetConfig(format="binary_mask", root=str(root), images="im", labels="gt")


def test_zero_one_masks_are_understood_by_looking_at_the_set(tmp_path):
    for name, values in (("a", square(0)), ("b", square(1))):
        image(tmp_path / f"im/{name}.png")
        label(tmp_path / f"gt/{name}.png", values)
    source = build_source(mask_config(tmp_path))
    assert source.is_zero_one
    assert source.read(source.items()[1]).class_map.sum() == 24


def test_a_nearly_black_mask_does_not_make_a_0_255_set_zero_one(tmp_path):
    for name, values in (("a", square(1)), ("b", square(255))):
        image(tmp_path / f"im/{name}.png")
        label(tmp_path / f"gt/{name}.png", values)
    source = build_source(mask_config(tmp_path))
    assert not source.is_zero_one
    assert source.read(source.items()[0]).segments == ()


def test_jpeg_masks_are_cut_above_127(tmp_path):
    image(tmp_path / "im/a.jpg")
    (tmp_path / "gt").mkdir()
    Image.fromarray(np.repeat(square(255)[..., None], 3, 2)).save(tmp_path / "gt/a.jpg", quality=60)
    annotation = read_first(mask_config(tmp_path))
    stored = np.asarray(Image.open(tmp_path / "gt/a.jpg").convert("L"))
    assert len(np.unique(stored)) > 2
    assert np.array_equal(annotation.class_map == 1, stored > 127)
    assert annotation.soft_mask.max() > 127


def test_one_bit_masks_are_white_foreground(tmp_path):
    image(tmp_path / "im/a.jpg")
    (tmp_path / "gt").mkdir()
    Image.fromarray(square(255)).convert("1").save(tmp_path / "gt/a.png")
    assert read_first(mask_config(tmp_path)).class_map.sum() == 24


def test_panoptic_segments_follow_the_json(tmp_path):
    annotation = read_first(write_panoptic(tmp_path))
    kinds = {s.instance_id: (s.category, s.is_crowd, s.is_thing) for s in annotation.segments}
    assert kinds == {257: (3, False, True), 131072: (3, True, True), 9: (5, False, False)}
    assert (annotation.class_map[6:8] == VOID_CLASS).all()
    assert (annotation.class_map[:2] == VOID_CLASS).all()


def test_a_segment_id_that_the_json_lacks_is_named(tmp_path):
    config = write_panoptic(tmp_path)
    values = np.full((HEIGHT, WIDTH, 3), (44, 0, 0), np.uint8)
    label(tmp_path / "pan/a.png", values)
    with pytest.raises(UserError, match=r"pan/a.png: holds segment ids .* lacks: 44"):
        read_first(config)


def test_a_panoptic_picture_of_another_size_is_refused(tmp_path):
    config = write_panoptic(tmp_path)
    label(tmp_path / "pan/a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"pan/a.png: is \(4, 4\)"):
        read_first(config)


def test_cityscapes_groups_are_crowds_and_void_has_no_segment(tmp_path):
    annotation = read_first(write_cityscapes(tmp_path))
    kinds = {s.instance_id: (s.category, s.is_crowd, s.is_thing) for s in annotation.segments}
    assert kinds == {7: (7, False, False), 26: (26, True, True), 26001: (26, False, True)}
    assert (annotation.class_map[10] == VOID_CLASS).all()


def test_cityscapes_panoptic_files_are_matched_by_image_id(tmp_path):
    write_panoptic(tmp_path)
    for n in "ab":
        image(tmp_path / f"left/town/{n}_leftImg8bit.png")
    config = DatasetConfig(
        format="panoptic", root=str(tmp_path), images="left", labels="pan",
        annotations="panoptic.json", image_ending="_leftImg8bit.png",
    )  # fmt: skip
    source = build_source(config)
    assert [i.key for i in source.items()] == [f"town/{n}_leftImg8bit.png" for n in "ab"]
    assert source.read(source.items()[0]).segments
