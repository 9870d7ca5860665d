"""Generation over very many pictures: memory, resuming, and a rank that dies in the middle.

    python -m benchmarks.many_pictures FOLDER --count 100000
    python -m benchmarks.many_pictures FOLDER --count 2000 --method unseg --ranks 2

Makes COUNT pictures and masks in FOLDER (kept for the next call), then, each in its own process:
protects them; runs again, with all of them finished; protects them once more with RANKS
processes of which one is killed when half are done; runs that to its end, and once more. Compares
every file's checksum with those of the first run, and looks that each manifest names every picture
once. Prints seconds, pictures a second and the memory of each rank at each tenth of the way. Exit
code 1 if a picture is missing, differs or stands twice. Linux only.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from unseg.protection.writing.manifest import (
    MANIFEST,
    PROTECTED,
    entries,
    manifest_files,
    read_manifest,
)

METHODS = {
    "random_sign": ["method=random_sign", "noise.grid=16"],
    "unseg": ["method=unseg", "generator.path=default"],
}
INTERVAL = 0.5


@dataclass
class Watched:
    """What was seen of a run.

    Attributes:
        seconds: from its start to its end.
        cpu: seconds of processor time of all its processes, which other work disturbs less.
        code: exit code.
        memory: MiB of each rank's largest process, by tenth of the pictures done.
        peak: of each rank, the largest of all looks, MiB.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    code: int = 0
    memory: dict[int, dict[int, float]] = field(default_factory=dict)
    peak: dict[int, float] = field(default_factory=dict)

    def look(self, by_rank: dict[int, float], tenth: int) -> None:
        """Note the memory of each rank, MiB, at a tenth of the way."""
        for rank, mib in by_rank.items():
            self.peak[rank] = max(self.peak.get(rank, 0.0), mib)
            self.memory.setdefault(rank, {})[tenth] = mib

    def lines(self, name: str, count: int) -> str:
        """For people: what was seen, then a line a rank."""
        speed = count / max(self.seconds, 1e-9)
        first = (
            f"{name}: exit {self.code}, {self.seconds:.1f} s, {speed:.0f} pictures/s, "
            f"{self.cpu:.1f} s of CPU"
        )
        ranks = [
            f"  rank {rank}: peak {self.peak[rank]:.0f} MiB "
            + " ".join(f"{tenth}0%:{mib:.0f}" for tenth, mib in sorted(tenths.items()))
            for rank, tenths in sorted(self.memory.items())
        ]
        return "\n".join([first, *ranks])


def make_pictures(root: Path, count: int, side: int) -> None:
    """`root/{images,masks}/FOLDER/NUMBER.png`: noise with a disc, a thousand in a folder."""
    y, x = np.mgrid[:side, :side]
    for number in range(count):
        folder, name = f"{number // 1000:05d}", f"{number:09d}.png"
        if number % 1000 == 0:
            for kind in ("images", "masks"):
                (root / kind / folder).mkdir(parents=True, exist_ok=True)
        if (root / "masks" / folder / name).is_file():
            continue
        rng = np.random.default_rng(number)
        centre = rng.uniform(side * 0.3, side * 0.7, 2)
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < (side / 4) ** 2
        picture = rng.integers(60, 120, (side, side, 3), dtype=np.uint8)
        picture[inside] += 80
        cv2.imwrite(str(root / "images" / folder / name), picture)
        cv2.imwrite(str(root / "masks" / folder / name), inside.astype(np.uint8) * 255)


def command(root: Path, out: Path, options: Sequence[str], ranks: int) -> list[str]:
    """The command of a run."""
    config = root / "config.yaml"
    config.write_text("# all keys are overrides\n{}\n")
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    values = [
        "data.format=binary_mask", f"data.root={root}", "data.images=images",
        "data.labels=masks", "data.mask_values=zero_255", f"output.dir={out}",
        "output.contact_sheet=0", "run.device=cpu",
    ]  # fmt: skip
    return [*start, "generate.py", str(config), *values, *options]


def watched(
    call: Sequence[str], out: Path, count: int, look: Callable[[int, int], None] | None = None
) -> Watched:
    """Run a command to its end, looking at its memory and its manifest.

    Args:
        call: the command.
        out: its output folder.
        count: pictures in all.
        look: called with the process id and the number of pictures done, at each look.
    """
    seen, done, places = Watched(), 0, dict[Path, int]()
    start, before = time.monotonic(), _cpu_of_children()
    with Path(f"{out}.log").open("ab") as log:
        process = subprocess.Popen(call, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(INTERVAL)
            done += sum(_new_lines(path, places) for path in sorted(out.glob("manifest.part-*")))
            seen.look(memory_of_ranks(process.pid), 10 * done // count)
            if look is not None:
                look(process.pid, done)
    seen.seconds, seen.code = time.monotonic() - start, process.returncode
    seen.cpu = _cpu_of_children() - before
    return seen


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _new_lines(path: Path, places: dict[Path, int]) -> int:
    """Lines that a growing file has got since the last look; a smaller file is a new one."""
    try:
        with path.open("rb") as file:
            place = places.get(path, 0)
            file.seek(place if place <= os.fstat(file.fileno()).st_size else 0)
            data = file.read()
            places[path] = file.tell()
    except FileNotFoundError:  # joined
        return 0
    return data.count(b"\n")


def _memory(pid: int) -> float:
    """Resident MiB of a process; 0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_of_ranks(pid: int) -> dict[int, float]:
    """MiB of the largest process of each rank below a launcher; of a run without one, rank 0's."""
    found: dict[int, float] = {}
    for child in below(pid):
        rank, memory = rank_of(child), _memory(child)
        if rank is not None and memory:
            found[rank] = max(found.get(rank, 0.0), memory)
    alone = _memory(pid)
    return found or ({0: alone} if alone else {})


def rank_of(pid: int) -> int | None:
    """The rank that a launcher gave to a process; None: none, or it has ended."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((int(v[5:]) for v in variables if v.startswith(b"RANK=")), None)


def below(pid: int) -> list[int]:
    """Process ids of all descendants."""
    try:
        own = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [found for child in map(int, own) for found in (child, *below(child))]


def kill_one(ranks: int, at: int) -> Callable[[int, int], None]:
    """A look that kills the last rank, once, when `at` pictures are done."""
    state = {"killed": False}

    def look(pid: int, done: int) -> None:
        if state["killed"] or done < at:
            return
        for child in below(pid):
            if rank_of(child) == ranks - 1:
                os.kill(child, signal.SIGKILL)
                state["killed"] = True
                print(f"killed rank {ranks - 1} after {done} pictures", flush=True)
                return

    return look


def checksums(out: Path) -> dict[str, str]:
    """Checksum of every protected picture that the manifest names and that is there."""
    return {
        entry["key"]: entry["output_sha256"]
        for entry in read_manifest(out)
        if entry["status"] == PROTECTED and (out / entry["output"]).is_file()
    }


def stands_once(out: Path, count: int) -> bool:
    """Whether the joined manifest has `count` lines, each of another picture."""
    keys = [entry["key"] for entry in entries(out / MANIFEST)]
    print(f"{out.name}: {len(keys)} lines, {len(set(keys))} pictures", flush=True)
    return len(keys) == len(set(keys)) == count


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts; 1 where a picture is missing, differs or stands twice."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many_pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="work folder, outside of the repository")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32, help="pixels")
    parser.add_argument("--method", choices=METHODS, default="random_sign")
    parser.add_argument("--ranks", type=int, default=4, help="processes; 1: leave this part out")
    given = parser.parse_args(argv)
    root = given.folder / f"pictures-{given.count}-{given.side}"
    start = time.monotonic()
    make_pictures(root, given.count, given.side)
    print(f"{given.count} pictures of {given.side} px made in {time.monotonic() - start:.1f} s")
    ok = run_parts(given.folder, root, given.count, METHODS[given.method], given.ranks)
    print("nothing is missing, nothing differs" if ok else "MISSING, DIFFERENT OR TWICE")
    return 0 if ok else 1


def run_parts(folder: Path, root: Path, count: int, options: Sequence[str], ranks: int) -> bool:
    """Every part in turn; whether all pictures are there, once and equal, at the end."""
    one, many = folder / "one", folder / "many"
    for out in (one, many):
        shutil.rmtree(out, ignore_errors=True)
    call = command(root, one, options, 1)
    print(watched(call, one, count).lines("one process", count), flush=True)
    first = checksums(one)
    ok = _again(call, one, count, first, "one process") and len(first) == count
    if ranks > 1:
        call = command(root, many, options, ranks)
        dead = watched(call, many, count, kill_one(ranks, count // 2))
        print(dead.lines(f"{ranks} ranks, one dies", count), flush=True)
        left = {entry["key"] for path in manifest_files(many) for entry in entries(path)}
        print(f"{len(left)} pictures were recorded before", flush=True)
        ended = watched(call, many, count)
        print(ended.lines(f"{ranks} ranks, to the end", count), flush=True)
        ok = ok and dead.code != 0 and ended.code == 0
        ok = _again(call, many, count, first, f"{ranks} ranks") and ok
    return ok


def _again(call: Sequence[str], out: Path, count: int, first: dict[str, str], who: str) -> bool:
    """Run what has finished once more; whether each picture is there, once and as in `first`."""
    again = watched(call, out, count)
    print(again.lines(f"{who} again, all finished", count), flush=True)
    is_once = stands_once(out, count)
    return again.code == 0 and is_once and checksums(out) == first


if __name__ == "__main__":
    sys.exit(main())
