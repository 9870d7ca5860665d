"""Training batches: what is in them, and that neither workers nor ranks change it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from unseg.data import Synthetic
from unseg.data.hqseg import open_list
from unseg.data.loader import PendingBatch, TrainLoader
from unseg.data.pairs import DataError, PairDataset
from unseg.data.prompts import OBJECT_ABOVE, bilinear
from unseg.types import Batch, Sample

SIZES = {
    "image_size": 64,
    "generator_mask_size": 32,
    "surrogate_image_size": 32,
    "surrogate_mask_size": 16,
}


def loader(dataset, **changes) -> TrainLoader:
    return TrainLoader(dataset, **{**SIZES, "batch_size": 4, "seed": 3, **changes})


def contents(batch: Batch) -> dict[str, torch.Tensor]:
    """Every tensor of a batch by name, NaN made comparable."""
    found = {"image": batch.image, "mask": batch.mask, "indices": batch.indices}
    for player in ("generator", "surrogate"):
        prompts = getattr(batch, f"{player}_prompts")
        for name in ("boxes", "point_coords", "point_labels", "mask_inputs"):
            if getattr(prompts, name) is not None:
                found[f"{player} {name}"] = getattr(prompts, name).nan_to_num(nan=-7)
    return found


def assert_same(first: Batch, second: Batch) -> None:
    assert first.names == second.names
    a, b = contents(first), contents(second)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def write_pairs(folder: Path, num: int, *, scale: int = 255, side: int = 48) -> PairDataset:
    lines = []
    for i in range(num):
        sample = Synthetic(num, side)[i]
        cv2.imwrite(str(folder / f"{i}.jpg"), sample.image)
        cv2.imwrite(str(folder / f"{i}.png"), sample.mask.astype(np.uint8) * scale)
        lines.append(f"{i}.jpg\t{i}.png")
    (folder / "pairs.txt").write_text("\n".join(lines))
    return open_list(folder / "pairs.txt")


def test_an_epoch_holds_each_sample_once_in_an_order_of_its_own() -> None:
    data = loader(Synthetic(10, 32))
    orders = [
        [int(index) for batch in data.epoch(epoch) for index in batch.indices]
        for epoch in (0, 1, 0)
    ]
    assert len(data) == 3
    assert sorted(orders[0]) == list(range(10))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


def test_a_batch_has_the_documented_ranges_and_no_empty_mask() -> None:
    for batch in loader(Synthetic(12, 40)).epoch(0):
        assert batch.image.shape == (4, 3, 64, 64)
        assert batch.mask.shape == (4, 1, 64, 64)
        assert batch.image.dtype == batch.mask.dtype == torch.float32
        assert batch.image.min() >= 0
        assert batch.image.max() <= 1
        assert (batch.mask.flatten(1).amax(1) > OBJECT_ABOVE).all()
        assert batch.image.is_contiguous()
        assert batch.mask.is_contiguous()


def test_masks_stay_soft_and_lie_where_their_image_does() -> None:
    class Ramp:
        """An image whose red channel is its own soft mask."""

        name = "ramp"

        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Sample:
            ramp = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (30, 1))
            return Sample(np.stack((ramp, ramp, ramp), 2), ramp, str(index))

        def sample_name(self, index: int) -> str:
            return str(index)

        def fault(self, index: int) -> None:
            return None

    for batch in loader(Ramp()).epoch(0):
        assert torch.equal(batch.image[:, :1], batch.mask)
        assert ((batch.mask > 0.1) & (batch.mask < 0.9)).any()


def test_workers_do_not_change_a_batch(tmp_path: Path) -> None:
    dataset = write_pairs(tmp_path, 6)
    alone, helped = loader(dataset), loader(dataset, num_workers=2)
    for epoch in (0, 1):
        for first, second in zip(alone.epoch(epoch), helped.epoch(epoch), strict=True):
            assert_same(first, second)


def test_global_random_state_does_not_change_a_batch() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the legacy state is what must not matter
    first = next(loader(Synthetic(4, 32)).epoch(0))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert_same(first, next(loader(Synthetic(4, 32)).epoch(0)))


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_shares_of_all_ranks_make_the_global_batch(world_size: int) -> None:
    dataset = Synthetic(9, 32)
    whole = list(loader(dataset).epoch(2))
    ranks = [
        list(loader(dataset, rank=rank, world_size=world_size).epoch(2))
        for rank in range(world_size)
    ]
    assert {len(shares) for shares in ranks} == {len(whole)}
    for number, batch in enumerate(whole):
        shares = [rank[number] for rank in ranks]
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == len(batch)
        assert torch.equal(torch.cat([share.image for share in shares]), batch.image)
        assert torch.equal(torch.cat([share.mask for share in shares]), batch.mask)
        start = 0
        for share in shares:
            for name in ("generator_prompts", "surrogate_prompts"):
                for row in range(len(share)):
                    mine = getattr(share, name).select([row])
                    theirs = getattr(batch, name).select([start + row])
                    assert mine.kinds == theirs.kinds
            start += len(share)


def test_a_share_without_samples_is_an_empty_batch() -> None:
    shares = list(loader(Synthetic(5, 32), rank=0, world_size=2).epoch(0))
    assert [len(share) for share in shares] == [2, 0]
    assert shares[1].image.shape == (0, 3, 64, 64)
    assert shares[1].generator_prompts.kinds == ()


def test_an_epoch_resumes_in_its_middle() -> None:
    data = loader(Synthetic(10, 32))
    whole, rest = list(data.epoch(1)), list(data.epoch(1, start=2))
    assert len(rest) == 1
    assert_same(whole[2], rest[0])
    assert len(data) == 3


def test_pixels_rendered_from_windows_equal_those_of_the_worker() -> None:
    data = loader(Synthetic(4, 200))
    batches = data._loader.dataset
    job = (0, (0, 1, 2, 3))
    whole, _ = batches[job]
    batches.renders = False
    pending, _ = batches[job]
    assert isinstance(pending, PendingBatch)
    assert len(pending) == 4
    assert_same(pending.render("cpu"), whole)


def test_pending_pixels_are_pinned_on_their_way_to_a_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x) or x)
    batches = loader(Synthetic(4, 200))._loader.dataset
    batches.renders = False
    item = batches[0, (0, 1)]
    batch, skipped = pin_memory(item)
    assert [len(pixels) for pixels in pinned] == [len(item[0].pixels)]
    assert isinstance(batch, PendingBatch)
    assert skipped == []


def test_prompts_are_in_the_frame_of_their_player() -> None:
    for batch in loader(Synthetic(24, 64), batch_size=24).epoch(0):
        small = bilinear(batch.mask, 32)
        for prompts, mask in (
            (batch.generator_prompts, batch.mask),
            (batch.surrogate_prompts, small),
        ):
            assert prompts.point_coords is not None
            assert prompts.point_labels is not None
            for row in range(len(batch)):
                if prompts.point_labels[row, 0] == 1:
                    x, y = prompts.point_coords[row].long().T
                    assert (mask[row, 0, y, x] > 128 / 255).all()


def test_a_damaged_picture_is_replaced_counted_and_named(tmp_path: Path) -> None:
    dataset = write_pairs(tmp_path, 8)
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:200])
    data = loader(dataset, num_workers=1)
    batches = list(data.epoch(0))
    assert sum(map(len, batches)) == 8
    assert "3.jpg" not in [name for batch in batches for name in batch.names]
    assert [name for name, _ in data.skipped] == ["3.jpg"]
    assert "3.jpg" in data.skipped[0][1]
    again = list(loader(dataset).epoch(0))
    for first, second in zip(batches, again, strict=True):
        assert_same(first, second)


def test_an_all_black_mask_is_skipped_and_counted(tmp_path: Path) -> None:
    dataset = write_pairs(tmp_path, 5)
    cv2.imwrite(str(tmp_path / "2.png"), np.full((48, 48), 127, np.uint8))
    data = loader(dataset)
    names = [name for batch in data.epoch(0) for name in batch.names]
    assert len(names) == 5
    assert "2.jpg" not in names
    assert data.skipped == [("2.jpg", "mask is all black (no pixel above 127)")]


def test_a_data_set_without_any_usable_sample_is_an_error(tmp_path: Path) -> None:
    dataset = write_pairs(tmp_path, 3)
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((48, 48), np.uint8))
    with pytest.raises(DataError, match="64 samples in a row are unusable"):
        next(loader(dataset).epoch(0))


def test_a_tiny_object_is_never_trained_on_as_an_empty_crop() -> None:
    class Corner:
        """A small object in the corner of a wide image: most large crops miss it."""

        name = "corner"

        def __len__(self) -> int:
            return 16

        def __getitem__(self, index: int) -> Sample:
            mask = np.zeros((80, 200), bool)
            mask[:8, :8] = True
            return Sample(np.zeros((80, 200, 3), np.uint8), mask, str(index))

        def sample_name(self, index: int) -> str:
            return str(index)

        def fault(self, index: int) -> None:
            return None

    for batch in loader(Corner(), batch_size=16).epoch(0):
        assert (batch.mask.flatten(1).amax(1) > OBJECT_ABOVE).all()


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        loader(PairDataset("none", tmp_path, []))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_batch_made_on_the_gpu_equals_the_one_made_on_the_cpu() -> None:
    dataset = Synthetic(8, 100)
    there = loader(dataset, device="cuda", num_workers=1).epoch(0)
    for first, second in zip(loader(dataset).epoch(0), there, strict=True):
        assert second.image.is_cuda
        assert second.mask.is_cuda
        assert first.names == second.names
        assert (first.image - second.image.cpu()).abs().max() <= 2.4e-7
        assert (first.mask - second.mask.cpu()).abs().max() <= 2.4e-7
        assert first.generator_prompts.kinds == second.generator_prompts.kinds
