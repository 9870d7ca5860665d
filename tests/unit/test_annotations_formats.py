"""What each format means, and how malformed labels and paths are refused."""

import json
import math

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
    write_coco_instances,
    write_colour_map,
    write_panoptic,
)
from PIL import Image

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import VOID, build_source, contiguous_classes
from unseg.data.annotations.raster import (
    decode_segmentation,
    decompress_counts,
    fill_polygon,
)
from unseg.utils.errors import UserError


def read_first(config):
    source = build_source(config)
    return source.read(source.items()[0])


# --- class ids -----------------------------------------------------------------------------------


def test_palette_indices_are_class_ids_and_void_is_void(tmp_path):
    annotation = read_first(write_class_png(tmp_path))
    assert (annotation.class_map[2:6, 3:9] == 2).all()
    assert (annotation.class_map[0] == VOID).all()
    assert [s.category for s in annotation.segments] == [2]


@pytest.mark.parametrize(
    ("options", "stored", "expected"),
    [
        ({"num_classes": 150, "reduce_zero_label": True, "void": (255,)}, [0, 1, 150, 255],
         [VOID, 0, 149, VOID]),
        ({"num_classes": 150, "void": (255,)}, [0, 149, 255], [0, 149, VOID]),
        ({"num_classes": 3, "class_offset": 1}, [0, 1], [1, 2]),
        ({"num_classes": 11, "void": (11,)}, [0, 10, 11], [0, 10, VOID]),
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
    class_map = np.array([[7, 33, VOID], [26, 8, 7]], np.int32)
    assert contiguous_classes(class_map, (7, 26, 33)).tolist() == [[0, 2, VOID], [1, VOID, 0]]


# --- binary masks --------------------------------------------------------------------------------


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


# --- COCO ----------------------------------------------------------------------------------------


def test_the_smaller_object_lies_on_top_and_crowds_are_void(tmp_path):
    annotation = read_first(write_coco_instances(tmp_path))
    assert [(s.category, s.is_crowd) for s in annotation.segments] == [(4, False), (9, True)]
    crowd = annotation.segments[1].mask
    assert (annotation.class_map[crowd & ~annotation.segments[0].mask] == VOID).all()
    assert (annotation.class_map[2:5, 2:5] == 4).all()


def reference_counts(mask):
    flat = np.concatenate([[False], mask.T.ravel()])
    change = np.flatnonzero(np.diff(flat.astype(int)))
    return np.diff(np.concatenate([[0], change, [mask.size]])).tolist()


def compress(counts):
    """Compressed RLE as in the description of the format."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            code = value & 31
            value >>= 5
            more = value != -1 if code & 16 else value != 0
            text += chr((code | 32 if more else code) + 48)
    return text


@pytest.mark.parametrize("seed", range(8))
def test_both_forms_of_rle_give_the_mask_that_was_coded(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    mask = rng.random((height, width)) < rng.random()
    counts = reference_counts(mask)
    size = [int(height), int(width)]
    for form in (counts, compress(counts)):
        found = decode_segmentation({"size": size, "counts": form}, *size)
        assert np.array_equal(found, mask)


def test_polygons_and_rle_equal_the_benchmarks_library():
    core = pytest.importorskip("faster_coco_eval.core.mask")
    rng = np.random.default_rng(1)
    for _ in range(300):
        height, width = (int(v) for v in rng.integers(3, 60, 2))
        points = rng.integers(3, 12)
        xy = rng.uniform(-4, max(height, width) + 4, (points, 2))
        if rng.random() < 0.5:
            xy = np.round(xy * 2) / 2
        polygon = xy.ravel().tolist()
        expected = core.decode(core.frPyObjects([polygon], height, width))[..., 0].astype(bool)
        assert np.array_equal(fill_polygon(polygon, height, width), expected)
        rle = core.encode(np.asfortranarray(expected.astype(np.uint8)))
        found = decode_segmentation(
            {"size": [height, width], "counts": rle["counts"]}, height, width
        )
        assert np.array_equal(found, expected)


def test_a_rectangle_polygon_fills_its_pixels():
    mask = fill_polygon([2, 1, 6, 1, 6, 4, 2, 4], 8, 9)
    expected = np.zeros((8, 9), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(mask, expected)


SIZE = [HEIGHT, WIDTH]


@pytest.mark.parametrize(
    ("segmentation", "fault"),
    [
        ({"size": SIZE, "counts": [10, 20]}, "RLE is too short: 30 pixels for 12 x 16"),
        ({"size": SIZE, "counts": [100, 200]}, "RLE is too long"),
        ({"size": SIZE, "counts": [-5, 197]}, "negative run"),
        ({"size": SIZE, "counts": [1.5, 190]}, "not a list of whole numbers"),
        ({"size": SIZE, "counts": "0"}, "RLE is too short"),
        ({"size": SIZE, "counts": "o"}, "ends in the middle"),
        ({"size": SIZE, "counts": "!!"}, "invalid byte"),
        ({"size": SIZE, "counts": "o" * 40}, "invalid byte"),
        ({"size": [3, 3], "counts": [9]}, "RLE is of size"),
        ({"size": SIZE}, "not a list of whole numbers"),
        ([[1, 1, math.nan, 5, 5, 5]], "not a finite number"),
        ([[1, 1, math.inf, 5, 5, 5]], "not a finite number"),
        ([[1, 1, "x", 5, 5, 5]], "not a finite number"),
        ([[1, 1, 5, 5]], "polygon has 4 numbers"),
        ([[1, 1, 5, 5, 7, 7, 8]], "polygon has 7 numbers"),
        ([[1, 1, 1e9, 5, 5, 5]], "far outside"),
        ([], "neither polygons nor an RLE"),
        (None, "neither polygons nor an RLE"),
    ],
)
def test_a_malformed_segmentation_names_file_annotation_and_fault(tmp_path, segmentation, fault):
    config = write_coco_instances(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"][0]["segmentation"] = segmentation
    path.write_text(json.dumps(content))
    source = build_source(config)
    with pytest.raises(UserError) as error:
        source.read(source.items()[0])
    assert "instances.json: annotation 7 of a.jpg" in str(error.value)
    assert fault in str(error.value)
    assert source.read(source.items()[1]).segments  # the other image is not affected


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"category_id": 77}, "class id 77"),
        ({"category_id": None}, "class id None"),
        ({"segmentation": None, "category_id": 4}, "neither"),
    ],
)
def test_a_malformed_annotation_is_a_fault_of_its_image_alone(tmp_path, change, fault):
    config = write_coco_instances(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"][0].update(change)
    path.write_text(json.dumps(content))
    source = build_source(config)
    with pytest.raises(UserError, match=fault):
        source.read(source.items()[0])
    source.read(source.items()[1])


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"images": [', '{"images": []}', "not json", "[1"]
)
def test_a_broken_json_file_is_one_clear_error(tmp_path, text):
    config = write_coco_instances(tmp_path)
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(UserError, match=r"instances.json: "):
        build_source(config)


@pytest.mark.parametrize("size", [(0, 5), (-1, 5), (10**6, 10**6), (None, 5), ("12", 16)])
def test_an_impossible_size_in_the_json_is_refused_before_memory_is_taken(tmp_path, size):
    config = write_coco_instances(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["images"][0].update(height=size[0], width=size[1])
    path.write_text(json.dumps(content))
    source = build_source(config)
    with pytest.raises(UserError, match="not a size|exceeds"):
        source.read(source.items()[0])


def test_the_json_index_holds_positions_not_objects(tmp_path):
    """4,000 objects with 60 coordinates take below 1 MB once indexed."""
    import tracemalloc

    polygon = [float(i % 11) + 0.5 for i in range(60)]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 12, "width": 16} for i in range(400)
        ],
        "annotations": [
            {"id": i, "image_id": i % 400, "category_id": 1, "segmentation": [polygon]}
            for i in range(4000)
        ],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "big.json").write_text(json.dumps(content))
    del content
    config = DatasetConfig(format="coco", root=str(tmp_path), annotations="big.json")
    tracemalloc.start()
    source = build_source(config)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    file_size = (tmp_path / "big.json").stat().st_size
    assert kept < 1e6
    assert peak < 3 * file_size
    assert len(source.read(source.items()[17]).segments) == 10


def test_a_json_file_may_start_with_a_byte_order_mark_and_hold_spaces(tmp_path):
    config = write_coco_instances(tmp_path)
    path = tmp_path / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    plain = read_first(config)
    path.write_text(json.dumps(content, indent=3, ensure_ascii=False), "utf-8-sig")
    assert np.array_equal(read_first(config).class_map, plain.class_map)


# --- panoptic, Cityscapes ------------------------------------------------------------------------


def test_panoptic_segments_follow_the_json(tmp_path):
    annotation = read_first(write_panoptic(tmp_path))
    kinds = {s.instance_id: (s.category, s.is_crowd, s.is_thing) for s in annotation.segments}
    assert kinds == {257: (3, False, True), 131072: (3, True, True), 9: (5, False, False)}
    assert (annotation.class_map[6:8] == VOID).all()
    assert (annotation.class_map[:2] == VOID).all()


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
    assert (annotation.class_map[10] == VOID).all()


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


# --- folders, lists and paths --------------------------------------------------------------------


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


def test_a_linked_file_out_of_the_root_is_refused_in_a_scan_too(tmp_path):
    image(tmp_path / "secret.jpg")
    image(tmp_path / "set/a.jpg")
    (tmp_path / "set/b.jpg").symlink_to(tmp_path / "secret.jpg")
    items = build_source(DatasetConfig(format="folder", root=str(tmp_path / "set"))).items()
    assert [item.fault is None for item in items] == [True, False]


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
        ({"boxes": [[0, 0, 99, 4]]}, "must lie in the image"),
        ({"points": [[1, float("nan")]]}, "must lie in the image"),
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
