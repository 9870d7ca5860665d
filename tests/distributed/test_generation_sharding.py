"""Two ranks write what one process writes, each file once, and a crash loses nothing."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
from generate_cases import entries_of, make_config, make_set, protect_set, saturated_generator
from generate_cases import tree_bytes as bytes_of

from unseg.protection.run import generate
from unseg.protection.stream import KEPT
from unseg.utils import distributed
from unseg.utils.errors import UserError

pytestmark = pytest.mark.distributed

OPTIONS = ("run.batch_size=2",)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _rank(rank: int, root: str, folder: str) -> None:
    """One run that is complete, one that finishes a part, one that is refused."""
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    distributed.init()
    results = {}
    for name in ("two", "half"):
        written: list[str] = []

        def note(entry, written=written):
            if entry["status"] != KEPT:
                written.append(entry["key"])

        config = make_config(Path(root), Path(folder) / name, *OPTIONS)
        summary = generate(config, generator=saturated_generator(), on_entry=note)
        results[name] = (written, summary.as_dict()["protected"], summary.kept)
    try:
        config = make_config(Path(root), Path(folder) / "two", *OPTIONS, "noise.epsilon=3")
        generate(config, generator=saturated_generator())
    except UserError as error:
        results["refused"] = str(error)
    torch.save(results, f"{folder}/rank{rank}.pt")
    distributed.shutdown()


def test_two_ranks_share_the_list_and_give_the_bytes_of_one(tmp_path, monkeypatch):
    root = make_set(tmp_path / "in", 9)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    protect_set(root, tmp_path / "one", *OPTIONS)
    protect_set(root, tmp_path / "half", *OPTIONS)
    torch.set_num_threads(threads)
    for name in ("001.png", "004.png", "008.png"):
        (tmp_path / "half" / name).unlink()
    for key, value in (
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(_free_port())),
        ("WORLD_SIZE", "2"),
        ("OMP_NUM_THREADS", "1"),
    ):
        monkeypatch.setenv(key, value)
    multiprocessing.spawn(_rank, args=(str(root), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in (0, 1)]

    shares = [set(rank["two"][0]) for rank in ranks]
    assert shares[0] == {"000.png", "001.png", "004.png", "005.png", "008.png"}
    assert shares[1] == {"002.png", "003.png", "006.png", "007.png"}
    assert all(rank["two"][1:] == (9, 0) for rank in ranks)
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")

    assert sorted(key for rank in ranks for key in rank["half"][0]) == [
        "001.png", "004.png", "008.png",
    ]  # fmt: skip
    assert all(rank["half"][1:] == (9, 6) for rank in ranks)
    assert bytes_of(tmp_path / "half") == bytes_of(tmp_path / "one")

    order = [f"{i:03d}.png" for i in range(9)]
    for name in ("two", "half"):
        assert list(entries_of(tmp_path / name)) == order
        assert not list((tmp_path / name).glob("manifest.part-*"))
    assert all("noise.epsilon: was 8.0, is 3.0" in rank["refused"] for rank in ranks)
