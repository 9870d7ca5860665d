"""Protects a folder of damaged pictures, one after the other, within bounds of time and memory.

`python -m tests.fuzz.child IN OUT`: appends a JSON line of each file's cost to OUT/costs.jsonl.
"""

from __future__ import annotations

import faulthandler
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

MAX_PIXELS = 4_000_000
SECONDS = 20
"""Of processor time for one file; on the clock thirty times that, on a machine with company."""


def main() -> int:
    """Protect; the exit code of `unseg generate`."""
    from unseg.config.generate import GenerateConfig
    from unseg.config.load import load_config
    from unseg.protection.run import generate

    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    values = {
        "data.format": "folder", "data.root": str(root), "data.max_pixels": MAX_PIXELS,
        "output.dir": str(out), "output.keep_suffix": True, "method": "random_sign",
        "noise.grid": 8, "prompt.kind": "whole", "run.device": "cpu", "run.decode_workers": 1,
        "run.encode_workers": 1,
    }  # fmt: skip
    config = load_config(GenerateConfig, None, [f"{k}={json.dumps(v)}" for k, v in values.items()])
    out.mkdir(exist_ok=True)
    with (out / "costs.jsonl").open("a") as costs:
        last = _Cost()

        def note(entry: dict[str, Any]) -> None:
            costs.write(json.dumps({"key": entry["key"], **last.taken()}) + "\n")
            costs.flush()

        return generate(config, on_entry=note).exit_code


class _Cost:
    """Time and memory since the last file, and the limits of the next one."""

    def __init__(self) -> None:
        self._memory = _kilobytes("VmRSS")
        self._time = time.process_time()
        self._limit()

    def taken(self) -> dict[str, float]:
        now = time.process_time()
        cost = {
            "seconds": round(now - self._time, 4),
            "kilobytes": _kilobytes("VmHWM") - self._memory,
        }
        self._time = now
        self._limit()
        return cost

    def _limit(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft = int(usage.ru_utime + usage.ru_stime) + SECONDS + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        faulthandler.dump_traceback_later(30 * SECONDS, exit=True)


def _kilobytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
