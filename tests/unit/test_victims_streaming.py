"""Streamed sets give what whole sets in memory give, and hold no more than their cache allows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from victim_cases import RECIPE, MemorySource, load_tensors, tensor_set

from benchmarks import evaluation_memory
from unseg.config.evaluate import RecipeConfig, SyntheticConfig, VictimDataConfig
from unseg.utils.errors import UserError
from unseg.victims.data.load import FramedPictures
from unseg.victims.data.picture_cache import PictureCache
from unseg.victims.data.picture_set import Pictures, PictureSet
from unseg.victims.data.splits import make_pictures, split_config
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.grid.run_cell import build_task
from unseg.victims.networks.registry import build_victim
from unseg.victims.training.fit import FitState, fit

VICTIMS = {
    "foreground": ("unet_plain", 32),
    "semantic": ("unet_plain", 32),
    "panoptic": ("mask2former_resnet50", 64),
    "instance": ("mask2former_resnet50", 64),
    "detection": ("rtdetrv2_resnet50", 32),
    "interactive": ("sam_hq_vit_b", 32),
}
CACHES = {"none": 0, "a part": 60_000, "all": 10**9}


def same(left: TensorSet, right: TensorSet) -> bool:
    """Whether two batches are equal, label maps and segments included."""
    pairs = [(left.images, right.images), (left.labels, right.labels)]
    pairs.append((left.extents, right.extents))
    if left.keys != right.keys or not all(torch.equal(a, b) for a, b in pairs):
        return False
    for name in ("segments", "native_segments", "native_labels"):
        ours, theirs = getattr(left, name), getattr(right, name)
        if (ours is None) != (theirs is None):
            return False
        for a, b in zip(ours or (), theirs or (), strict=True):
            if isinstance(a, np.ndarray):
                if not np.array_equal(a, b):
                    return False
            elif not (
                np.array_equal(a.masks(), b.masks())
                and np.array_equal(a.categories, b.categories)
                and np.array_equal(a.void_mask(), b.void_mask())
            ):
                return False
    return True


def scenes(folder: Path, task: str, side: int) -> tuple[Any, VictimDataConfig, RecipeConfig]:
    section = VictimDataConfig(
        synthetic=SyntheticConfig(num_train=10, num_test=3, image_size=side),
        task=task,
    )
    make_pictures(section, folder)
    recipe = dataclasses.replace(
        RECIPE, image_size=side, epochs=2, eval_batch_size=2, score_at="native", eval_every=2
    )
    return split_config(section, "train", folder), section, recipe


@pytest.mark.parametrize("task", VICTIMS)
def test_a_streamed_fit_has_the_losses_and_scores_of_one_in_memory(
    tmp_path: Path, task: str
) -> None:
    arch, side = VICTIMS[task]
    dataset, section, recipe = scenes(tmp_path, task, side)
    test = split_config(section, "test", tmp_path)
    common: dict[str, Any] = {"recipe": recipe, "task": task}
    cache = PictureCache(CACHES["a part"])

    def streamed(which: Any, **how: Any) -> PictureSet:
        return PictureSet.of(FramedPictures(which, **common, **how), cache, num_workers=1)

    def trained(train: Pictures, clean_test: Pictures) -> FitState:
        goal = build_task(dataset, section, recipe)
        torch.manual_seed(0)
        victim = build_victim(arch, num_classes=goal.num_classes, tiny=True, image_size=side)
        return fit(
            victim, train, recipe=recipe, task=goal, validation=None, clean_test=clean_test, seed=1
        )

    whole = trained(load_tensors(dataset, **common), load_tensors(test, **common, is_test=True))
    found = trained(streamed(dataset), streamed(test, is_test=True))
    assert cache.num_bytes <= cache.limit
    for ours, theirs in zip(found.curve, whole.curve, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
        assert ours["clean_test"] == pytest.approx(theirs["clean_test"], abs=1e-6)


def test_a_picture_that_leaves_the_cache_before_its_step_is_decoded_again() -> None:
    whole = tensor_set(6)
    source = MemorySource(whole)
    cache = PictureCache(2 * whole.select([0]).num_bytes)
    pictures = PictureSet.of(source, cache, num_workers=1)
    pictures.load([4, 5])
    # No set is in use, so a picture for which there is no room empties the cache.
    chunks = [[4, 0, 1, 2], [4, 5], [3, 0], [2, 5, 4]]
    for chunk, batch in zip(chunks, pictures.batches(chunks), strict=True):
        assert same(batch, whole.select(chunk)), chunk
    assert source.num_decoded > 2  # of which by this process


@pytest.mark.parametrize("cached", CACHES)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_batches_depend_on_neither_workers_nor_cache(
    tmp_path: Path, task: str, workers: int, cached: str
) -> None:
    dataset, _, recipe = scenes(tmp_path, task, 32)
    common: dict[str, Any] = {"recipe": recipe, "task": task, "is_test": True}
    whole = load_tensors(dataset, **common)
    cache = PictureCache(CACHES[cached])
    pictures = PictureSet.of(FramedPictures(dataset, **common), cache, num_workers=workers)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    chunks = [[0, 1, 2], [2, 2, 9], [3], [0, 4, 5], [1, 0], [9, 8, 7, 6]]
    for _ in range(2):  # the second time some or all of them are kept
        batches = list(pictures.batches(chunks))
        assert len(batches) == len(chunks)
        for chunk, batch in zip(chunks, batches, strict=True):
            assert same(batch, whole.select(chunk)), chunk
        assert cache.num_bytes <= cache.limit
    some = pictures.select([7, 3, 5])
    assert some.keys == whole.select([7, 3, 5]).keys
    assert same(next(some.batches([[2, 0]])), whole.select([5, 7]))
    assert torch.equal(torch.get_rng_state(), before)  # reading draws nothing


def test_what_is_kept_is_decoded_once_and_other_cells_make_room() -> None:
    data = tensor_set(6)
    first, second = MemorySource(data, "first"), MemorySource(data, "second")
    cache = PictureCache()
    cache.begin_cell(6 * data.select([0]).num_bytes)
    for source in (first, second):
        cache.use(source.name)
        pictures = PictureSet.of(source, cache)
        for _ in range(3):
            list(pictures.batches([range(6)]))
    assert first.num_decoded == 6
    assert second.num_decoded == 18  # both sets are in use, and the first fills the cache
    cache.begin_cell(cache.limit)
    cache.use(second.name)
    for _ in range(3):
        list(PictureSet.of(second, cache).batches([range(6)]))
    assert second.num_decoded == 24
    assert cache.num_bytes == cache.limit
    cache.begin_cell(0)
    assert cache.num_bytes == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    dataset, _, recipe = scenes(tmp_path, "foreground", 32)
    files = FramedPictures(dataset, recipe=recipe, task="foreground")
    path = tmp_path / "train" / "images" / files.keys[4]
    path.write_bytes(b"no picture")
    pictures = PictureSet.of(files, PictureCache(), num_workers=workers)
    with pytest.raises(UserError, match=rf"{files.keys[4]}") as caught:
        list(pictures.batches([[0, 1], [2, 4]]))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.slow
def test_the_peak_memory_of_a_cell_does_not_grow_with_its_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Held whole, 500 pictures would take 100 MiB more than 100 do.
    assert evaluation_memory.main(["100", "500", "--cache-mib", "2"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert float(last.rpartition(" ")[2]) < 1.1
