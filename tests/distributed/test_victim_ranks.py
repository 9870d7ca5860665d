"""Two and four gloo ranks a cell do what one process does with their batches together."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from victim_cases import RECIPE, MemorySource, fit_copying, tensor_set

from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.victims.data.mixtures import mixed
from unseg.victims.data.picture_cache import PictureCache
from unseg.victims.data.picture_set import PictureSet
from unseg.victims.data.segments import Target, label_targets
from unseg.victims.grid.saved_state import StateSaver
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import ObjectVictim, Victim
from unseg.victims.training.class_map_task import ClassMapTask
from unseg.victims.training.fit import FitState, fit

pytestmark = pytest.mark.distributed

# 20 steps: 2 epochs of 10.
BASE = replace(RECIPE, epochs=2, batch_size=8, optimizer="sgd", lr=0.05, eval_batch_size=3)
CASES: dict[str, dict[str, Any]] = {
    "dice": {"loss": "ce_dice", "brightness": 0.1, "contrast": 0.2},
    "adversarial": {"defence": "adversarial"},
    "ddc_at": {"defence": "ddc_at-0.2", "batch_norm": "frozen", "loss": "ce_dice"},
    "ueraser": {"defence": "ueraser_like-2"},
    "objects": {"defence": "adversarial"},
    "mixture in parts": {
        "clean_share": 0.4,
        "defence": "shift",
        "accumulate": 2,
        "num_workers": 1,
    },
}


class MeanOfPictures(ObjectVictim):
    """Finds classes of a map; its loss is the mean of its pictures' losses."""

    def loss(self, images: Tensor, targets: list[Target]) -> Tensor:
        scores = self(images)
        wanted = torch.stack([self._map(t, scores.shape[-2:]) for t in targets])
        return (scores - wanted).square().mean()

    def _map(self, target: Target, size: torch.Size) -> Tensor:
        wanted = torch.zeros(self.num_classes, *size)
        for mask, category in zip(target.masks, target.categories, strict=True):
            wanted[category] += mask
        return wanted


def small_victim(name: str) -> Victim:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    kind = MeanOfPictures if name == "objects" else Victim
    network = nn.Sequential(*layers, nn.Conv2d(8, 2, 1))
    return kind(network, num_classes=2, divisor=1)


def pictures(*, clean_share: float, num_workers: int) -> PictureSet:
    clean, cache = tensor_set(77), PictureCache(10_000)
    inverted = replace(clean, images=255 - clean.images)
    protected, plain = (
        PictureSet.of(MemorySource(data, name), cache, num_workers=num_workers)
        for name, data in (("protected", inverted), ("clean", clean))
    )
    return mixed(protected, plain, clean_share, seed=3)


def trained(name: str, state: FitState | None = None) -> list[FitState]:
    """States of one of the cases after every five steps, from the first or on from a state."""
    case = dict(CASES[name])
    defence, share = case.pop("defence", "none"), case.pop("clean_share", 1.0)
    data = pictures(clean_share=share, num_workers=case.pop("num_workers", 0))
    return fit_copying(
        small_victim(name), data, every=5, recipe=replace(BASE, **case), defence=defence,
        task=ClassMapTask(2, batch_size=3), clean_test=tensor_set(10, 1), state=state,
    )  # fmt: skip


def summary(states: list[FitState]) -> dict[str, Any]:
    last = states[-1]
    return {"curve": last.curve, "victim": last.victim, "branch": last.branch}


def whole_and_resumed(name: str) -> dict[str, Any]:
    """How a case ends, and whether it ends so too from its state in the middle of an epoch."""
    states = trained(name)
    whole = summary(states)
    (middle,) = [state for state in states if (state.epoch, state.step) == (1, 5)]
    torch.manual_seed(99)  # what another process would have drawn
    resumed = summary(trained(name, middle))
    is_equal = resumed["curve"] == whole["curve"] and all(
        torch.equal(value, resumed[part][key])
        for part in ("victim", "branch")
        for key, value in whole[part].items()
    )
    return {**whole, "resumes": is_equal}


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def run_rank(rank: int, folder: str, ports: list[str]) -> None:
    """Two groups of two ranks, then one group of four."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    for size, port in zip((2, 4), ports, strict=True):
        os.environ["MASTER_PORT"] = port
        distributed.init_group(size)
        assert (distributed.rank(), distributed.world_size()) == (rank % size, size)
        found: dict[str, Any] = {name: whole_and_resumed(name) for name in CASES}
        found["several"] = several(Path(folder), size, rank)
        torch.save(found, f"{folder}/{size}-{rank}.pt")
        distributed.shutdown()


def several(folder: Path, size: int, rank: int) -> dict[str, Any]:
    """What needs several processes: refusals, agreement on when to save and to stop."""
    found: dict[str, Any] = {}
    try:
        fit(
            build_victim("unet_plain", num_classes=2, tiny=True), tensor_set(8), recipe=BASE,
            task=ClassMapTask(2), validation=None, clean_test=tensor_set(2), seed=0,
        )  # fmt: skip
    except UserError as error:
        found["refusal"] = str(error)
    saver = StateSaver(folder / f"state{size}-{rank // size}.pt", seconds=1e9, steps=3)
    found["due"] = [saver.is_due() for _ in range(3)]
    saver.keep(FitState(epoch=1))
    if distributed.rank() == 1:
        saver.asked.set()
    found["due"].append(saver.is_due())
    try:
        saver.keep(FitState(epoch=2))
    except KeyboardInterrupt:
        state = distributed.from_main(saver.load)
        found["stopped after epoch"] = state and state.epoch
    try:
        distributed.from_main(lambda: 1 // 0)
    except (UserError, ZeroDivisionError) as error:
        found["error"] = type(error).__name__
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Any]:
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("WORLD_SIZE", "4")
        patch.setenv("OMP_NUM_THREADS", "1")
        arguments = (str(folder), [free_port(), free_port()])
        multiprocessing.spawn(run_rank, args=arguments, nprocs=4)
    places = [(size, rank) for size in (2, 4) for rank in range(4)]
    return {(size, rank): torch.load(folder / f"{size}-{rank}.pt") for size, rank in places}


def difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Largest difference of two states, relative to the largest value of the tensor."""
    assert set(left) == set(right)
    parts = [
        float((left[n] - right[n]).abs().max() / right[n].abs().max().clamp(min=1e-3))
        for n in left
        if left[n].is_floating_point()
    ]
    return max(parts, default=0.0)


@pytest.mark.parametrize("name", CASES)
def test_ranks_end_where_one_process_ends_also_when_they_resume(
    name: str, ranks: dict[tuple[int, int], Any]
) -> None:
    alone = summary(trained(name))
    for place, found in ranks.items():
        part = found[name]
        assert part["resumes"], place
        for key in ("victim", "branch"):
            assert difference(part[key], alone[key]) < 1e-5, (place, key)
        for ours, theirs in zip(part["curve"], alone["curve"], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), place
            assert ours["clean_test"] == pytest.approx(theirs["clean_test"], abs=1e-4), place


def test_ranks_save_and_stop_together_and_fail_together(
    ranks: dict[tuple[int, int], Any],
) -> None:
    for (size, rank), found in ranks.items():
        several = found["several"]
        assert several["due"] == [False, False, True, True]
        assert several["stopped after epoch"] == 2
        assert "set recipe.batch_norm=frozen" in several["refusal"]
        is_main = rank % size == 0
        assert several["error"] == ("ZeroDivisionError" if is_main else "UserError")


def test_a_group_needs_as_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=r"ranks_per_cell=8.*NPROC=8 bash scripts/run_eval.sh"):
        distributed.init_group(8)
    distributed.init_group(1)
    assert distributed.world_size() == 1


def test_label_targets_are_what_the_small_victim_learns() -> None:
    (target,) = label_targets(torch.tensor([[[0, 1], [1, 255]]]), 2)
    wanted = small_victim("objects")._map(target, torch.Size([2, 2]))
    assert wanted.sum(0).tolist() == [[1, 1], [1, 0]]
