"""Validation batches: every sample once, in the squashed frame, with its native mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unseg.data import Synthetic
from unseg.data.hqseg import open_list
from unseg.data.pairs import PairDataset
from unseg.data.validation import ValidationLoader


def write_set(folder: Path, sizes: list[tuple[int, int]]) -> PairDataset:
    rng = np.random.default_rng(0)
    lines = []
    for i, size in enumerate(sizes):
        mask = np.zeros(size, np.uint8)
        mask[size[0] // 4 : size[0] // 2, size[1] // 3 : size[1] // 3 * 2] = 255
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        cv2.imwrite(str(folder / f"{i}_mask.png"), mask)
        lines.append(f"{i}.png\t{i}_mask.png\n")
    (folder / "list.txt").write_text("".join(lines))
    return open_list(folder / "list.txt")


def test_samples_of_several_sizes_share_a_batch(tmp_path: Path) -> None:
    sizes = [(40, 60), (90, 31), (64, 64)]
    dataset = write_set(tmp_path, sizes)
    (batch,) = ValidationLoader(dataset, image_size=32, surrogate_image_size=16)
    assert len(batch) == 3
    assert [tuple(mask.shape) for mask in batch.native_masks] == sizes
    for i in range(3):
        sample = dataset[i]
        image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255
        squashed = F.interpolate(image, (32, 32), mode="bilinear", align_corners=False)
        assert torch.equal(batch.batch.image[i], squashed[0])
        assert torch.equal(batch.native_masks[i], torch.from_numpy(sample.mask > 127))


def test_boxes_bound_the_object_in_the_frame_of_each_player(tmp_path: Path) -> None:
    (batch,) = ValidationLoader(
        write_set(tmp_path, [(64, 96)]), image_size=64, surrogate_image_size=32
    )
    assert batch.batch.generator_prompts.kinds == ("box",)
    assert batch.batch.generator_prompts.boxes.tolist() == [[21, 16, 42, 31]]
    assert batch.batch.surrogate_prompts.kinds == ("box",)
    y, x = np.nonzero(F.avg_pool2d(batch.batch.mask, 2)[0, 0].numpy() > 128 / 255)
    box = [x.min(), y.min(), x.max(), y.max()]
    assert batch.batch.surrogate_prompts.boxes.tolist() == [box]


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_each_sample_is_seen_once_over_all_ranks(world_size: int) -> None:
    seen: list[str] = []
    for rank in range(world_size):
        loader = ValidationLoader(
            Synthetic(5, 32),
            image_size=32,
            surrogate_image_size=16,
            batch_size=2,
            rank=rank,
            world_size=world_size,
        )
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [name for batch in batches for name in batch.batch.names]
    assert sorted(seen) == [f"train-0000{i}" for i in range(5)]


def test_a_limit_spreads_its_samples_over_the_set() -> None:
    loader = ValidationLoader(
        Synthetic(100, 16), image_size=16, surrogate_image_size=16, limit=4, batch_size=3
    )
    found = [int(i) for batch in loader for i in batch.batch.indices]
    assert found == [0, 25, 50, 75]


def test_unusable_samples_are_skipped_and_named(tmp_path: Path) -> None:
    dataset = write_set(tmp_path, [(20, 20)] * 4)
    cv2.imwrite(str(tmp_path / "1_mask.png"), np.zeros((20, 20), np.uint8))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:300])
    loader = ValidationLoader(
        dataset, image_size=16, surrogate_image_size=16, batch_size=2, num_workers=1
    )
    for _ in range(2):
        names = [name for batch in loader for name in batch.batch.names]
        assert names == ["0.png", "3.png"]
    assert [name for name, _ in loader.skipped] == ["1.png", "2.png"]
    assert "all black" in loader.skipped[0][1]
