"""Processes, devices and seeds: one process, and two gloo ranks against one."""

from __future__ import annotations

import multiprocessing
import os
import socket
from multiprocessing.connection import wait

import numpy as np
import pytest
import torch

from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.seed import derive_seed, numpy_generator, torch_generator


def check_rank(rank: int, port: int) -> None:
    """What each of two ranks sees; runs in a process of its own."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    distributed.BUCKET_ELEMENTS = 10  # several buckets even for tiny tensors
    distributed.init()
    assert (distributed.rank(), distributed.world_size()) == (rank, 2)
    assert distributed.is_main() == (rank == 0)
    assert distributed.all_gather_object({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert distributed.all_reduce_sum(torch.tensor([rank + 1.0])).item() == 3.0
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3, 4, 25, 2, 1)]
    parameters.append(torch.nn.Parameter(torch.ones(2, dtype=torch.float64)))
    parameters[3].requires_grad_(False)
    for i, p in enumerate(parameters):
        # Rank 1 lacks the second gradient, both lack the fifth.
        if i not in (3, 4) and not (i == 1 and rank == 1):
            p.grad = torch.arange(p.numel(), dtype=p.dtype) + 100 * i + rank
    distributed.all_reduce_gradients(parameters)
    for i, p in enumerate(parameters):
        if i in (3, 4):
            assert p.grad is None
            continue
        base = torch.arange(p.numel(), dtype=p.dtype) + 100 * i
        torch.testing.assert_close(p.grad, base if i == 1 else 2 * base + 1, rtol=0, atol=0)
    distributed.barrier()
    distributed.shutdown()
    assert distributed.world_size() == 1


@pytest.mark.distributed
def test_two_ranks_sum_gradients_and_count_missing_ones_as_zero():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Forking saves two imports of torch, most of the time of this test.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=check_rank, args=(rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        # No limit but the one of all tests; a rank whose partner has failed would wait for ever.
        # `alive` is asked for once: waiting for nobody would never end.
        while (alive := [p for p in ranks if p.is_alive()]) and not any(p.exitcode for p in ranks):
            wait([process.sentinel for process in alive])
    finally:
        for process in ranks:
            process.kill()
            process.join()
    assert [process.exitcode for process in ranks] == [0, 0]


def test_one_process_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.init()
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    distributed.barrier()
    parameter = torch.nn.Parameter(torch.ones(2))
    distributed.all_reduce_gradients([parameter])
    assert parameter.grad is None
    tensor = torch.ones(2)
    total = distributed.all_reduce_sum(tensor)
    assert torch.equal(total, tensor)
    assert total is not tensor
    assert distributed.all_gather_object("a") == ["a"]
    distributed.shutdown()


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(UserError, match="must be auto, cpu, cuda or cuda:N"):
        distributed.pick_device(name)


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.pick_device("auto") == torch.device("cpu")
    assert distributed.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match="device=cuda: no CUDA device on this machine"):
        distributed.pick_device("cuda")


def test_each_local_rank_takes_its_own_card(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.pick_device() == torch.device("cuda:1")
    assert distributed.pick_device("cuda:0") == torch.device("cuda:0")
    assert chosen == [torch.device("cuda:1"), torch.device("cuda:0")]
    with pytest.raises(UserError, match="this machine has cuda:0 to cuda:1"):
        distributed.pick_device("cuda:2")


def test_seeds_are_the_same_on_every_machine_and_differ_by_every_part():
    assert derive_seed(42, 3, 17, "crop") == 7902534387503902053
    calls = [
        (1, 2),
        (2, 1),
        (12,),
        ("1", 2),
        ("12",),
        (1, 2, ""),
        (-1, 2),
        ("a", "bc"),
        ("ab", "c"),
    ]
    seeds = [derive_seed(*parts) for parts in calls]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(np.int64(5)) == derive_seed(5)


def test_generators_repeat_for_the_same_parts():
    first, second = (torch.rand(4, generator=torch_generator(1, "a")) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.rand(4, generator=torch_generator(1, "b")))
    np.testing.assert_array_equal(numpy_generator(1).random(3), numpy_generator(1).random(3))
