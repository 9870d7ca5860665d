"""Two gloo ranks do what one process does with the union of their batches."""

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from engine_cases import (
    Loader,
    batch,
    batch_in_float64,
    gradients_of_step,
    in_float64,
    relative_difference,
    trainer,
)

from unseg.types import Phase
from unseg.utils import distributed

pytestmark = pytest.mark.distributed

TURNS = {
    "generator": (Phase.GENERATOR, False),
    "surrogate": (Phase.SURROGATE, False),
    "surrogate alone": (Phase.SURROGATE, True),
}
"""Who learns, and whether on clean pictures, without a generator."""

SHARES = {"even": (2, 2), "uneven": (3, 1), "one rank without samples": (2, 0)}


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _start(monkeypatch, function, *arguments) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(_free_port()))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(function, args=arguments, nprocs=2)


def _join(rank: int) -> None:
    import os

    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    distributed.init()


def _gradients_of_rank(rank: int, folder: str) -> None:
    _join(rank)
    found = {}
    for name, sizes in SHARES.items():
        first = sum(sizes[:rank])
        data = batch_in_float64(batch(sizes[rank], first=first))
        for turn, (phase, is_alone) in TURNS.items():
            run = in_float64(trainer(Path(folder) / f"run{rank}", is_alone=is_alone))
            found[name, turn] = gradients_of_step(run, phase, data)
    torch.save(found, f"{folder}/rank{rank}.pt")
    distributed.shutdown()


def test_gradients_of_two_ranks_equal_those_of_one_process(tmp_path, monkeypatch):
    _start(monkeypatch, _gradients_of_rank, str(tmp_path))
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1)]
    for name, sizes in SHARES.items():
        data = batch_in_float64(batch(sum(sizes)))
        for turn, (phase, is_alone) in TURNS.items():
            run = in_float64(trainer(tmp_path / "alone", is_alone=is_alone))
            alone = gradients_of_step(run, phase, data)
            for rank in ranks:
                difference = relative_difference(alone, rank[name, turn])
                assert difference < 1e-6, (name, turn, difference)


def _train_rank(rank: int, folder: str) -> None:
    _join(rank)
    loader = Loader(5, 3, rank=rank, world_size=2)
    run = in_float64(trainer(Path(folder) / "ranks", steps=4, loader=loader))
    run.metrics.close()
    run.fit()
    weights = {p.value: m.state_dict() for p, m in run.players.items()}
    torch.save(weights, f"{folder}/trained{rank}.pt")
    distributed.shutdown()


def test_a_run_of_two_ranks_keeps_them_equal_and_ends_where_one_process_does(tmp_path, monkeypatch):
    _start(monkeypatch, _train_rank, str(tmp_path))
    ranks = [torch.load(tmp_path / f"trained{r}.pt") for r in (0, 1)]
    run = in_float64(trainer(tmp_path / "alone", steps=4, loader=Loader(5, 3)))
    run.fit()
    for phase, player in run.players.items():
        for name, value in player.state_dict().items():
            left, right = (r[phase.value][name] for r in ranks)
            assert torch.equal(left, right), name
            torch.testing.assert_close(left, value, atol=1e-6, rtol=1e-6)
    names = [
        sorted(p.name for p in (tmp_path / n / "checkpoints").iterdir()) for n in ("ranks", "alone")
    ]
    assert names[0] == names[1] != []
