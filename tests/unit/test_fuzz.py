"""The costliest of the damaged pictures that were tried (`python -m tests.fuzz`), once more."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.check import run_cases
from tests.fuzz.mutations import make_case

WORST = Path(__file__).parents[1] / "fuzz/worst.txt"


def test_the_worst_cases_keep_the_invariant(tmp_path: Path) -> None:
    lines = [line.split() for line in WORST.read_text().splitlines()]
    cases = {case.name: case for case in (make_case(int(s), int(i)) for s, i in lines)}
    assert len(cases) >= 50
    result = run_cases(cases.values(), tmp_path)
    assert result.broken == []
    assert sum(result.counts.values()) == len(cases)
    assert result.compared > 5


def test_a_case_is_the_same_file_every_time() -> None:
    assert [make_case(7, i) for i in range(20)] == [make_case(7, i) for i in range(20)]
