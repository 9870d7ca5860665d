"""`kill -9` anywhere, then again: the same bytes as an uninterrupted run, and nothing twice."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dying import Death
from generate_cases import (
    entries_of,
    make_config,
    make_set,
    protect_set,
    save_generator,
    tree_bytes,
)

from unseg.io.files import TEMPORARY, sha256_file
from unseg.protection.run import generate
from unseg.protection.writing.manifest import entries, manifest_files

pytestmark = pytest.mark.e2e

KILLS, NUM_IMAGES = 20, 40
MOST_DONE = 5
"""Images that a run may finish before it dies."""
OPTIONS = ("run.batch_size=2", "output.noise=true")


@pytest.fixture
def reference(tmp_path):
    """A set, and what an uninterrupted run makes of it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    root = make_set(tmp_path / "in", NUM_IMAGES)
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

    def run(self, death: Death | None = None) -> bool:
        """Run until the end or to this death; returns whether it was killed."""
        self.process.stdin.write(json.dumps(death.words()) + "\n" if death else "\n")
        self.process.stdin.flush()
        status = int(self.process.stdout.readline())
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def recorded(out: Path) -> dict[str, dict]:
    """Entries of all manifests, each key once."""
    found: dict[str, dict] = {}
    for path in manifest_files(out):
        for entry in entries(path):
            # A joined manifest may stand beside the part that it was made from.
            assert found.get(entry["key"], entry) == entry, "done twice after its manifest line"
            found[entry["key"]] = entry
    return found


def some_deaths(rng: random.Random) -> list[Death]:
    """Twenty: at the ends of a run, at its pictures and at its lines, in a random order."""
    files = [
        Death("config.yaml", "whole"),
        Death("config.yaml", "half"),
        Death("manifest.jsonl", "half"),
        Death("manifest.jsonl", "named"),
        Death("summary.json", "whole"),
    ]
    pictures = [
        Death("*.png", moment, rng.randint(1, MOST_DONE))
        for moment in ("half", "whole", "named")
        for _ in range(3)
    ]
    lines = [
        Death("", moment, rng.randint(1, MOST_DONE))
        for moment in ("line", "torn")
        for _ in range(3)
    ]
    deaths = [*files, *pictures, *lines]
    rng.shuffle(deaths)
    assert len(deaths) == KILLS
    return deaths


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
        times: dict[str, int] = {}
        done, seen = 0, set()
        for death in some_deaths(random.Random(0)):
            if done + MOST_DONE > NUM_IMAGES:  # too few are left to die at: from the start
                shutil.rmtree(out)
                times.clear()
            assert worker.run(death), f"it ended before {death}"
            done = check_after_kill(out, expected, times)
            seen.add(done)
        assert len(seen) > 5, f"kills hit only these states: {seen}"
        assert not worker.run()
        check_after_kill(out, expected, times)
    finally:
        worker.close()
    assert tree_bytes(out) == expected
    assert len(entries_of(out)) == NUM_IMAGES
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
    call = ("unseg.cli", "generate", str(config))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    deaths = (Death("*.png", "half", 5), Death("", "torn", 4), Death("", "line", 4))
    for death in deaths:
        died = subprocess.run(death.command(*call), env=environment, check=False)
        assert died.returncode == -signal.SIGKILL, f"it ended before {death}"
    assert 6 < len(recorded(out)) < NUM_IMAGES
    again = [sys.executable, "-m", *call]
    assert subprocess.run(again, env=environment, check=False).returncode == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generate(make_config(root, tmp_path / "again", *OPTIONS, f"generator.path={weights}"))
    torch.set_num_threads(threads)
    assert tree_bytes(out) == tree_bytes(tmp_path / "again")
    assert len(entries_of(out)) == NUM_IMAGES
    assert not [p for p in out.rglob("*") if TEMPORARY.fullmatch(p.name) or ".part-" in p.name]
