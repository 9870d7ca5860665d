"""COCO instances: masks equal to the benchmark's, malformed ones refused, little memory."""

import json
import math

import numpy as np
import pytest
from annotation_cases import (
    HEIGHT,
    WIDTH,
    write_coco_instances,
)

from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.raster import (
    decode_segmentation,
    fill_polygon,
)
from unseg.types import VOID_CLASS
from unseg.utils.errors import UserError


def read_first(config):
    source = build_source(config)
    return source.read(source.items()[0])


def test_the_smaller_object_lies_on_top_and_crowds_are_void(tmp_path):
    annotation = read_first(write_coco_instances(tmp_path))
    assert [(s.category, s.is_crowd) for s in annotation.segments] == [(4, False), (9, True)]
    crowd = annotation.segments[1].mask
    assert (annotation.class_map[crowd & ~annotation.segments[0].mask] == VOID_CLASS).all()
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
