"""`kill -9` anywhere, then again: the same bytes as an uninterrupted run, and nothing twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from generate_cases import (
    entries_of,
    make_config,
    make_set,
    protect_set,
    save_generator,
    tree_bytes,
)

from unseg.io.files import sha256_file
from unseg.protection.run import generate
from unseg.protection.writing.manifest import TEMPORARY, entries, manifest_files

pytestmark = pytest.mark.e2e

KILLS = 20
OPTIONS = ("run.batch_size=2", "output.noise=true")


@pytest.fixture
def reference(tmp_path):
    """A set, and what an uninterrupted run makes of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    root = make_set(tmp_path / "in", 40)
    protect_set(root, tmp_path / "whole", *OPTIONS)
    torch.set_num_threads(before)
    return root, tree_bytes(tmp_path / "whole")


class Worker:
    """The warm process."""

    def __init__(self, root: Path, out: Path) -> None:
        script = Path(__file__).with_name("generation_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(root), str(out), *OPTIONS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, moment: Callable[[], bool] | None = None) -> bool:
        """Start a run, kill it once `moment()` is true; returns whether it was killed."""
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        if moment is not None:
            deadline = time.monotonic() + 30
            while not moment() and time.monotonic() < deadline:
                time.sleep(0.003)
            os.kill(child, signal.SIGKILL)
        status = int(self.process.stdout.readline())
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def recorded(out: Path) -> dict[str, dict]:
    """Entries of all manifests, each key once."""
    found: dict[str, dict] = {}
    for path in manifest_files(out):
        for entry in entries(path):
            # A joined manifest may stand beside the part that it was made from.
            assert found.get(entry["key"], entry) == entry, "done twice after its manifest line"
            found[entry["key"]] = entry
    return found


def progress(out: Path) -> int:
    """Number of images recorded so far, while a run may be moving its files."""
    try:
        return len({entry["key"] for path in manifest_files(out) for entry in entries(path)})
    except FileNotFoundError:
        return 0


def a_moment(out: Path, done: int, rng: random.Random) -> Callable[[], bool]:
    """A random point of a run: within its start, or a little after some more images."""
    if rng.random() < 0.25:
        end = time.monotonic() + rng.uniform(0, 0.3)
        return lambda: time.monotonic() >= end
    wanted = min(done + rng.randint(1, 5), 40)
    rest = rng.uniform(0, 0.02)

    def reached() -> bool:
        if progress(out) < wanted:
            return False
        time.sleep(rest)
        return True

    return reached


def check_after_kill(out: Path, expected: dict[str, bytes], times: dict[str, int]) -> int:
    """What holds after every kill; returns how many images are recorded."""
    if not out.is_dir():
        return 0
    found = {name: data for name, data in tree_bytes(out).items() if ".tmp" not in name}
    for name, data in found.items():
        assert data == expected[name], f"{name} has a final name but not its final bytes"
    entries = recorded(out)
    for entry in entries.values():
        assert entry["status"] == "protected", entry
        path = out / entry["output"]
        assert sha256_file(path) == entry["output_sha256"]
        time_ns = path.stat().st_mtime_ns
        assert times.setdefault(entry["key"], time_ns) == time_ns, "written again after its line"
    return len(entries)


def test_twenty_kills_of_a_warm_worker_change_nothing(tmp_path, reference):
    root, expected = reference
    out = tmp_path / "out"
    worker = Worker(root, out)
    try:
        rng = random.Random(0)
        times: dict[str, int] = {}
        done = kills = 0
        seen = set()
        for _ in range(3 * KILLS):
            if kills == KILLS:
                break
            kills += worker.run(a_moment(out, done, rng))
            done = check_after_kill(out, expected, times)
            seen.add(done)
            if done == 40 and kills < KILLS:  # finished in spite of the kills: from the start
                shutil.rmtree(out)
                times.clear()
                done = 0
        assert kills == KILLS
        assert len(seen) > 5, f"kills hit only these states: {seen}"
        assert not worker.run()
        check_after_kill(out, expected, times)
    finally:
        worker.close()
    assert tree_bytes(out) == expected
    assert len(entries_of(out)) == 40
    assert not [p for p in out.rglob("*") if TEMPORARY.fullmatch(p.name) or ".part-" in p.name]


@pytest.mark.slow
def test_three_kills_of_the_whole_command_change_nothing(tmp_path, reference):
    root, _ = reference
    out = tmp_path / "out"
    weights = save_generator(tmp_path / "g.safetensors")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data: {{format: binary_mask, root: {root}, images: images, labels: masks}}\n"
        f"output: {{dir: {out}, noise: true}}\n"
        f"generator: {{path: {weights}}}\n"
        "run: {device: cpu, batch_size: 2}\n"
    )
    command = [sys.executable, "-m", "unseg.cli", "generate", str(config)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    lines_before = 0
    for _ in range(3):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if progress(out) >= lines_before + 4:
                process.kill()
                break
            time.sleep(0.02)
        process.wait()
        lines_before = len(recorded(out))
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generate(make_config(root, tmp_path / "again", *OPTIONS, f"generator.path={weights}"))
    torch.set_num_threads(threads)
    assert tree_bytes(out) == tree_bytes(tmp_path / "again")
    assert len(entries_of(out)) == 40
    assert not [p for p in out.rglob("*") if TEMPORARY.fullmatch(p.name) or ".part-" in p.name]
