"""`python -m tests.fuzz --files N --seed S [--worst FILE]`: exit code 1 where something broke."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.check import Result, run_cases
from tests.fuzz.mutations import make_case

_GROUP = 1000
"""Files of one child: a table of them stays readable, and a broken one costs little."""


def main() -> int:
    """Run the cases of a seed and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worst", type=Path, help="append each group's costliest")
    options = parser.parse_args()
    result = Result()
    for start in range(0, options.files, _GROUP):
        numbers = range(start, min(start + _GROUP, options.files))
        with tempfile.TemporaryDirectory() as folder:
            cases = (make_case(options.seed, number) for number in numbers)
            group = run_cases(cases, Path(folder))
        result.add(group)
        if options.worst:
            with options.worst.open("a") as file:
                file.writelines(f"{options.seed} {line}\n" for line in _worst(group, 8))
        print(f"{numbers.stop} files, {len(result.broken)} broken", flush=True)
    _report(result, options.files)
    return 1 if result.broken else 0


def _report(result: Result, files: int) -> None:
    print(f"{files} files: {dict(result.counts)}, {result.compared} compared by other readers")
    for reason, count in result.reasons.most_common(25):
        print(f"  {count:6} {reason}")
    seconds, kilobytes = (max((c[i] for c in result.costs.values()), default=0) for i in (0, 1))
    print(f"most for one file: {seconds:.2f} s of processor time, {kilobytes / 1024:.0f} MB")
    for line in result.broken:
        print(f"BROKEN {line}")
    print(f"{len(result.broken)} broken")


def _worst(result: Result, count: int) -> list[str]:
    """Index, seconds and kilobytes of the files that took most memory, and of those most time."""
    by_memory = sorted(result.costs, key=lambda key: -result.costs[key][1])[: count // 2]
    by_time = sorted(result.costs, key=lambda key: -result.costs[key][0])
    chosen = list(dict.fromkeys([*by_memory, *by_time]))[:count]
    return [f"{int(key.lstrip('.')[:5])} {result.costs[key]}" for key in chosen]


if __name__ == "__main__":
    sys.exit(main())
