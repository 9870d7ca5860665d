"""What the check before training keeps: sound pairs, by size and time of their files."""

import os
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from unseg.data import header_check, known_headers, pairs
from unseg.data.header_check import check_dataset
from unseg.data.pairs import DataError, Joined, PairDataset

NAMES = "abcdef"


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Names of the files whose headers are read, in a set of six pairs with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(known_headers, "MIN_PAIRS", 1)
    names: list[str] = []
    read = pairs.image_size
    monkeypatch.setattr(pairs, "image_size", lambda p: names.append(p.name) or read(p))
    (tmp_path / "set").mkdir()
    for name in NAMES:
        write(tmp_path / f"set/{name}.png")
        write(tmp_path / f"set/{name}.jpg")
    return names


def write(path, size=(8, 9)):
    cv2.imwrite(str(path), np.zeros(size, np.uint8))


def dataset(tmp_path, names=NAMES):
    return PairDataset("set", tmp_path / "set", [(f"{n}.jpg", f"{n}.png") for n in names])


def test_sound_pairs_are_opened_once(tmp_path, opened):
    check_dataset(dataset(tmp_path))
    assert sorted(opened) == sorted(f"{n}.{s}" for n in NAMES for s in ("jpg", "png"))
    opened.clear()
    assert len(check_dataset(Joined([dataset(tmp_path)]))) == 6
    assert opened == []


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_is_opened_again(tmp_path, opened, change):
    check_dataset(dataset(tmp_path))
    opened.clear()
    path = tmp_path / "set/c.png"
    before = path.stat()
    if change == "size":
        write(path, (80, 9))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    if change == "size":
        with pytest.raises(DataError, match=r"c\.png: mask is 9 x 80 but its image c\.jpg"):
            check_dataset(dataset(tmp_path))
    else:
        check_dataset(dataset(tmp_path))
    assert sorted(opened) == ["c.jpg", "c.png"]


def test_faulty_pairs_are_named_every_time(tmp_path, opened):
    write(tmp_path / "set/b.png", (3, 3))
    for _ in range(2):
        opened.clear()
        with pytest.raises(DataError, match=r"b\.png: mask is 3 x 3"):
            check_dataset(dataset(tmp_path))
    assert sorted(opened) == ["b.jpg", "b.png"]


def test_a_damaged_record_is_made_again(tmp_path, opened):
    check_dataset(dataset(tmp_path))
    (record,) = (tmp_path / "cache/unseg/headers").iterdir()
    record.write_bytes(record.read_bytes()[:-5])
    opened.clear()
    check_dataset(dataset(tmp_path))
    assert len(opened) == 12
    assert record.stat().st_size == 6 * 32


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(tmp_path, opened):
    (tmp_path / "cache").write_text("a file")
    assert len(check_dataset(dataset(tmp_path))) == 6
    opened.clear()
    assert len(check_dataset(dataset(tmp_path))) == 6
    assert len(opened) == 12


def test_another_list_and_another_root_have_their_own_records(tmp_path, opened):
    check_dataset(dataset(tmp_path))
    opened.clear()
    check_dataset(dataset(tmp_path, "abc"))
    assert len(opened) == 6
    (tmp_path / "set").rename(tmp_path / "other")
    with pytest.raises(DataError, match="no such file"):
        check_dataset(dataset(tmp_path))


def test_a_known_pair_may_not_become_a_link_that_leads_out(tmp_path, opened):
    check_dataset(dataset(tmp_path))
    path = tmp_path / "set/a.jpg"
    path.rename(tmp_path / "elsewhere.jpg")
    path.symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(DataError, match="symbolic link"):
        check_dataset(dataset(tmp_path))


def test_small_sets_leave_no_record(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(known_headers, "MIN_PAIRS", 7)
    check_dataset(dataset(tmp_path))
    assert not (tmp_path / "cache").exists()


def test_processes_share_the_headers_and_name_the_same_faults(tmp_path, opened, monkeypatch):
    write(tmp_path / "set/b.png", (3, 3))
    write(tmp_path / "set/e.png", (3, 3))
    own, barrier = threading.local(), threading.Barrier(2)
    items, results = [None, None], [None, None]

    def gather(item):
        items[own.rank] = item
        barrier.wait(30)
        found = list(items)
        barrier.wait(30)
        return found

    monkeypatch.setattr(
        header_check,
        "distributed",
        SimpleNamespace(
            rank=lambda: own.rank, world_size=lambda: 2, all_gather_object=gather,
            is_main=lambda: own.rank == 0,
        ),
    )  # fmt: skip

    def check(rank):
        own.rank = rank
        faults: list[str] = []
        kept = check_dataset(dataset(tmp_path), skip_faulty=True, report=faults.append)
        results[rank] = (len(kept), faults)

    for expected in (12, 4):
        opened.clear()
        threads = [threading.Thread(target=check, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results[0] == results[1]
        assert results[0][0] == 4
        assert [fault.split(":")[0][-5:] for fault in results[0][1]] == ["b.png", "e.png"]
        assert len(opened) == expected
