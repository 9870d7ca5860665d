"""The loaders on the real class-agnostic pairs (UNSEG_DATA)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_data_cases import expected_count, need

from unseg.data.coco_instances import open_coco_instances
from unseg.data.header_check import check_dataset
from unseg.data.hqseg import open_list
from unseg.data.loader import TrainLoader
from unseg.data.pairs import Subset
from unseg.data.prompts import OBJECT_ABOVE
from unseg.data.validation import ValidationLoader


@pytest.mark.parametrize(
    ("name", "file"),
    [("training_pairs", "class_agnostic_train.txt"), ("pairs", "class_agnostic_test.txt")],
)
def test_a_real_list_has_every_pair_and_no_fault(name: str, file: str, real_data: Path) -> None:
    count = expected_count(real_data, name)
    dataset = check_dataset(open_list(real_data / file))
    assert len(dataset) == count
    folders = {dataset.sample_name(i).split("/")[0] for i in range(count)}
    lines = (real_data / file).read_text().split("\n")
    assert folders == {line.split("/")[0] for line in lines if line}


def test_a_few_dozen_real_pairs_train_without_a_skip(real_data: Path) -> None:
    need(real_data, "class_agnostic_train.txt")
    dataset = open_list(real_data / "class_agnostic_train.txt")
    some = Subset(dataset, np.linspace(0, len(dataset) - 1, 36).astype(int))
    loader = TrainLoader(
        some,
        image_size=128,
        generator_mask_size=64,
        surrogate_image_size=64,
        surrogate_mask_size=32,
        batch_size=12,
        seed=0,
    )
    for batch in loader.epoch(0):
        assert (batch.mask.flatten(1).amax(1) > OBJECT_ABOVE).all()
        assert (batch.image.flatten(1).std(1) > 0).all()
    assert [reason for _, reason in loader.skipped if "crops" not in reason] == []


def test_real_pairs_validate_in_their_native_size(real_data: Path) -> None:
    need(real_data, "class_agnostic_test.txt")
    dataset = open_list(real_data / "class_agnostic_test.txt")
    loader = ValidationLoader(dataset, image_size=128, surrogate_image_size=64, limit=24)
    for batch in loader:
        assert not batch.batch.generator_prompts.boxes.isnan().any()
        assert not batch.batch.surrogate_prompts.boxes.isnan().any()
        for index, mask in zip(batch.batch.indices, batch.native_masks, strict=True):
            assert mask.shape == dataset[int(index)].image.shape[:2]
    assert loader.skipped == []


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_the_real_coco_instances_of_one_percent_are_all_found(real_data: Path, split: str) -> None:
    expected = expected_count(real_data, f"coco_instances_{split}")
    dataset = open_coco_instances(
        real_data / f"coco/annotations/instances_{split}.json", real_data / "coco" / split
    )
    assert len(dataset) == expected
    check_dataset(dataset)
    assert all(dataset[i].mask.any() for i in range(0, len(dataset), max(40, len(dataset) // 20)))
