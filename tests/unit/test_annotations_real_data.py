"""Every labelled set of the real data is read, with as many items as its own lists hold.

`test_annotations_contract.py` does the same on generated sets and always runs.
"""

import dataclasses
import json

import numpy as np
import pytest
from real_data_cases import expected_count, need

from unseg.commands.data import check_data
from unseg.config.dataset import DatasetConfig
from unseg.data.annotations import build_source
from unseg.io.pictures import read_picture
from unseg.protection.reading.region import fit_annotation, instance_regions, region_from_annotation
from unseg.types import VOID_CLASS

DUBAI = {
    "building": (60, 16, 152),
    "land": (132, 41, 246),
    "road": (110, 193, 228),
    "vegetation": (254, 221, 58),
    "water": (226, 169, 41),
    "unlabelled": (155, 155, 155),
}
CITY = {"image_ending": "_leftImg8bit.png", "label_ending": "_gtFine_instanceIds.png"}
PANOPTIC = "fixtures/coco_panoptic_sample_data"

SETS = {
    "voc": {
        "format": "class_png", "root": "VOCdevkit/VOC2012", "images": "JPEGImages",
        "labels": "SegmentationClass", "list_file": "ImageSets/Segmentation/trainval.txt",
        "num_classes": 21, "void": (255,), "background": (0,),
    },
    "camvid": {
        "format": "class_png", "root": "CamVid", "images": "train", "labels": "trainannot",
        "list_file": "train.txt", "num_classes": 11, "void": (11,),
    },
    "clothes": {
        "format": "class_png", "root": "CCP", "images": "images", "labels": "labels",
        "list_file": "train.txt", "num_classes": 59, "background": (0,),
    },
    "ade20k": {
        "format": "class_png", "root": "fixtures/ADEChallengeData2016",
        "images": "images/validation", "labels": "annotations/validation", "num_classes": 150,
        "reduce_zero_label": True, "void": (255,),
    },
    "kvasir": {"format": "binary_mask", "root": "Kvasir-SEG", "images": "images",
        "labels": "masks"},
    "lung": {"format": "binary_mask", "root": "LungCT", "images": "images",
        "labels": "masks"},
    "horses": {"format": "folder", "root": "WeizmannHorse", "images": "images",
        "labels": "masks"},
    "pairs": {"format": "binary_mask", "root": ".", "list_file": "class_agnostic_test.txt"},
    "coco": {"format": "coco", "root": "coco", "images": "val2017",
        "annotations": "annotations/instances_val2017.json"},
    "nwpu": {"format": "coco", "root": "NWPU_VHR-10", "images": "positive image set",
        "annotations": "instances_train2017.json"},
    "panoptic": {"format": "panoptic", "root": PANOPTIC, "images": "input_images",
        "labels": "panoptic_examples", "annotations": "panoptic_examples.json"},
    "cityscapes": {"format": "cityscapes", "root": "fixtures/mmseg_pseudo_cityscapes",
                       "images": "leftImg8bit/val", "labels": "gtFine/val", **CITY},
    "dubai": {"format": "colour_map", "root": "fixtures/DubaiAerial/Tile 1",
        "images": "images", "labels": "masks", "colours": DUBAI, "void": (5,)},
    "potsdam": {"format": "class_png", "root": "fixtures/mmseg_pseudo_potsdam",
        "images": "img_dir", "labels": "ann_dir", "num_classes": 6},
    "vaihingen": {"format": "class_png", "root": "fixtures/mmseg_pseudo_vaihingen",
        "images": "img_dir", "labels": "ann_dir", "num_classes": 6},
}  # fmt: skip


def config_of(real_data, name):
    expected, values = expected_count(real_data, name), SETS[name]
    root = str(real_data / values["root"])
    return expected, DatasetConfig(**{**values, "root": root})


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_is_listed_completely_and_its_labels_fit(real_data, name):
    expected, config = config_of(real_data, name)
    source = build_source(config)
    items = source.items()
    assert len(items) == expected
    for item in items[:: max(1, len(items) // 6)]:
        picture = read_picture(item.image_path)
        annotation, note = fit_annotation(source.read(item), picture)
        assert note is None
        region = region_from_annotation(annotation)
        assert region.any()
        assert set(np.unique(annotation.class_map)) <= {VOID_CLASS, *source.class_names}


@pytest.mark.parametrize("name", ["lung", "camvid", "ade20k", "panoptic", "cityscapes", "dubai"])
def test_the_check_finds_no_fault_in_a_real_set(real_data, name):
    expected, config = config_of(real_data, name)
    report = check_data(dataclasses.replace(config, expected_items=expected))
    assert report.faults == []
    assert report.items == expected


def test_nwpu_unions_equal_the_masks_that_come_with_the_set(real_data):
    import cv2

    need(real_data, "NWPU_VHR-10/masks")
    _, config = config_of(real_data, "nwpu")
    source = build_source(config)
    for item in source.items()[:8]:
        region = region_from_annotation(source.read(item))
        stored = cv2.imread(str(real_data / "NWPU_VHR-10/masks" / f"{item.image_path.stem}.png"), 0)
        # Those masks were rasterised by another rule: they differ along the edges, by 3 pixels.
        square = np.ones((7, 7), np.uint8)
        assert not (region & (cv2.dilate(stored, square) <= 127)).any()
        assert not ((stored > 127) & (cv2.dilate(region.astype(np.uint8), square) == 0)).any()


def test_coco_areas_agree_with_the_file(real_data):
    """The `area` of COCO's polygons was computed from its own masks or outlines."""
    _, config = config_of(real_data, "coco")
    content = json.loads((real_data / "coco/annotations/instances_val2017.json").read_text())
    areas = {a["id"]: a["area"] for a in content["annotations"]}
    source = build_source(config)
    ratios = [
        s.mask.sum() / areas[s.instance_id]
        for item in source.items()[:20]
        for s in source.read(item).segments
        if areas[s.instance_id] > 400
    ]
    assert len(ratios) > 50
    assert np.median(ratios) == pytest.approx(1, abs=0.02)


def test_panoptic_png_and_its_detection_form_hold_the_same_segments(real_data):
    _, config = config_of(real_data, "panoptic")
    detection = DatasetConfig(
        format="coco",
        root=config.root,
        images="input_images",
        annotations="panoptic_coco_detection_format.json",
    )
    one, two = build_source(config), build_source(detection)
    by_key = {item.key: item for item in two.items()}
    for item in one.items():
        areas = sorted(int(r.sum()) for r in instance_regions(one.read(item)))
        other = sorted(int(r.sum()) for r in instance_regions(two.read(by_key[item.key])))
        assert areas == other
