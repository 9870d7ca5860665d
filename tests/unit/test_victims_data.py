"""What a victim learns from: augmentation, mixtures, validation, defences, labels, splits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from victim_cases import RECIPE, MemorySource, load_tensors, tensor_set

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import RecipeConfig, VictimDataConfig
from unseg.data.annotations.base import Annotation, Segment
from unseg.utils.errors import UserError
from unseg.victims.data.augment import augment
from unseg.victims.data.load import num_classes, training_label
from unseg.victims.data.mixtures import clean_rows, mixed
from unseg.victims.data.picture_cache import PictureCache
from unseg.victims.data.picture_set import PictureSet
from unseg.victims.data.splits import make_pictures, split_config, validation_rows
from unseg.victims.data.tensor_set import IGNORED_LABEL, TensorSet
from unseg.victims.networks.registry import build_victim
from unseg.victims.training.class_map_task import ClassMapTask


def augmented(data: TensorSet, **how: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, classes = augment(data, device=torch.device("cpu"), **how)
    assert isinstance(classes, torch.Tensor)
    return images, classes


def test_each_picture_gets_a_brightness_and_a_contrast_of_its_own_within_bounds() -> None:
    data = tensor_set(8)
    how = {"crop": 16, "scale": (1.0, 1.0), "flip": 0.0}
    plain, _ = augmented(data, generator=torch.Generator().manual_seed(0), **how)
    brighter, classes = augmented(
        data, brightness=0.1, generator=torch.Generator().manual_seed(0), **how
    )
    shifts = []
    for before, after in zip(plain, brighter, strict=True):
        inner = (after > 0) & (after < 1)
        shift = (after - before)[inner]
        assert shift.max() - shift.min() < 1e-5
        shifts.append(shift[0].item())
    assert len({round(s, 4) for s in shifts}) == 8
    assert max(map(abs, shifts)) <= 0.1
    assert torch.equal(classes, data.labels.long())
    stretched, _ = augmented(data, contrast=0.5, generator=torch.Generator().manual_seed(0), **how)
    for before, after in zip(plain, stretched, strict=True):
        inner = (after > 0) & (after < 1)
        ratio = ((after - before.mean()) / (before - before.mean()))[
            inner & ((before - before.mean()).abs() > 0.05)
        ]
        assert ratio.max() - ratio.min() < 1e-3
        assert 0.5 <= ratio.mean() <= 1.5


def test_without_scale_and_flip_the_augmentation_is_the_identity() -> None:
    data = tensor_set(3)
    rng = torch.Generator().manual_seed(0)
    data.labels[:, 0, 0] = IGNORED_LABEL
    images, classes = augmented(data, crop=16, scale=(1.0, 1.0), flip=0.0, generator=rng)
    assert torch.allclose(images, data.images.float() / 255, atol=1e-5)
    assert torch.equal(classes, data.labels.long())
    flipped, _ = augmented(data, crop=16, scale=(1, 1), flip=1.0, generator=rng)
    assert torch.allclose(flipped, data.images.flip(-1).float() / 255, atol=1e-5)


def test_a_shrunken_picture_is_surrounded_by_void_and_a_crop_keeps_pairs_together() -> None:
    data = tensor_set(8)
    rng = torch.Generator().manual_seed(0)
    _, classes = augmented(data, crop=16, scale=(0.5, 0.5), flip=0, generator=rng)
    assert ((classes != IGNORED_LABEL).flatten(1).sum(1) == 64).all()
    images, classes = augmented(data, crop=8, scale=(1.0, 2.0), flip=0.5, generator=rng)
    bright = images.mean(1) > 0.4
    valid = classes != IGNORED_LABEL
    assert (bright == (classes == 1))[valid].float().mean() > 0.9


def test_rows_are_chosen_by_name_and_larger_shares_contain_smaller_ones() -> None:
    keys = [f"k{i}" for i in range(50)]
    held = validation_rows(keys, 0.1)
    assert len(held) == 5
    mirrored = validation_rows(keys[::-1], 0.1)
    assert {keys[::-1][i] for i in mirrored} == {keys[i] for i in held}
    shares = [set(clean_rows(keys, share, seed=1)) for share in (0.2, 0.4, 0.8)]
    assert shares[0] < shares[1] < shares[2]
    assert len(shares[1]) == 20
    assert set(clean_rows(keys, 0.2, seed=2)) != shares[0]


def test_a_mixture_takes_the_pictures_of_its_clean_rows_from_the_clean_set() -> None:
    clean = tensor_set(8)
    protected = dataclasses.replace(clean, images=255 - clean.images, labels=clean.labels)

    def as_set(data: TensorSet, name: str) -> PictureSet:
        return PictureSet.of(MemorySource(data, name), PictureCache())

    whole = mixed(as_set(protected, "protected"), as_set(clean, "clean"), 0.5, seed=3)
    found = whole.load(range(8))
    rows = clean_rows(clean.keys, 0.5, seed=3)
    assert 0 < len(rows) < 8
    for i in range(8):
        assert torch.equal(found.images[i], (clean if i in rows else protected).images[i])
    with pytest.raises(ValueError, match="different pictures"):
        mixed(whole, as_set(tensor_set(8, seed=1), "other"), 0.5, seed=3)


def test_labels_for_training_leave_void_and_crowds_out() -> None:
    class_map = np.array([[7, 7, -1, 3], [-1, 9, 9, 3]], np.int32)
    objects = (
        Segment(class_map == 7, 7, is_crowd=False, is_thing=True, instance_id=1),
        Segment(class_map == 9, 9, is_crowd=True, is_thing=True, instance_id=2),
    )
    label = Annotation(2, 4, class_map, objects)
    semantic = training_label(label, task="semantic", class_ids=[3, 7, 9])
    assert semantic.tolist() == [[1, 1, 255, 0], [255, 255, 255, 0]]
    foreground = training_label(label, task="foreground", class_ids=[3, 7, 9])
    assert foreground.tolist() == [[1, 1, 255, 0], [255, 255, 255, 0]]
    opened = training_label(label, task="semantic", class_ids=[3, 7, 9], open_background=True)
    assert opened.tolist() == [[2, 2, 0, 1], [0, 255, 255, 1]]


def test_pictures_are_reduced_before_protection_and_keep_their_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for i in range(3):
        mask = np.zeros((60, 90), np.uint8)
        mask[10:40, 20 + 5 * i : 60] = 255
        cv2.imwrite(str(tmp_path / f"set/images/{i}.png"), rng.integers(0, 255, (60, 90, 3)))
        cv2.imwrite(str(tmp_path / f"set/masks/{i}.png"), mask)
    half = DatasetConfig(format="binary_mask", root=str(tmp_path / "set"), images="images",
                         labels="masks")  # fmt: skip
    data = VictimDataConfig(train=half, test=half, protect_size=45)
    make_pictures(data, tmp_path / "made")
    made = split_config(data, "train", tmp_path / "made")
    assert made.background == (0,)
    assert num_classes(made, "semantic") == 2
    assert cv2.imread(str(tmp_path / "made/train/images/0.png")).shape == (30, 45, 3)
    small = load_tensors(made, recipe=RECIPE, task="foreground")
    whole = load_tensors(half, recipe=RECIPE, task="foreground")
    assert (small.labels == whole.labels).float().mean() > 0.95
    assert small.labels.unique().tolist() == [0, 1]
    kept = RecipeConfig(**{**vars(RECIPE), "keep_ratio": True, "score_at": "native"})
    framed = load_tensors(half, recipe=kept, task="foreground", is_test=True)
    assert framed.extents.tolist() == [[11, 16]] * 3
    assert (framed.labels[:, 11:] == IGNORED_LABEL).all()
    assert framed.native_labels is not None
    assert framed.native_labels[0].shape == (60, 90)
    victim = build_victim("unet_plain", num_classes=2, tiny=True)
    counts = ClassMapTask(2).count(victim, framed)
    assert int(counts.matrix.sum()) == 3 * 60 * 90  # every native pixel once, no padding
    with pytest.raises(UserError, match=r"no protected picture of 0\.png"):
        load_tensors(half, recipe=RECIPE, task="foreground", protected_root=tmp_path / "made")
