"""Every benchmark runs on the tiny model and finds both paths equal; no time is judged."""

import json

import pytest

from benchmarks import start_up
from benchmarks.__main__ import BENCHMARKS, main, text
from benchmarks.measure import PeakMemory, Row, Settings, compare

FEW = ["--size", "tiny", "--repeats", "2", "--threads", "1", "--images", "4"]
COMPARING = [name for name in BENCHMARKS if name not in ("scaling", "start_up")]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARING)
def test_each_benchmark_prints_a_ratio_and_differs_by_less_than_its_bound(name, tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main([name, *FEW, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["rows"], f"{name} measured nothing"
    for row in content["rows"]:
        assert row["ratio"] > 0
        assert row["difference"] <= row["bound"]
        assert f"{row['benchmark']}: {row['case']}" in printed
        assert f"{row['ratio']:.2f}x" in printed
    assert content["machine"]["threads"] == 1


def test_start_up_compares_whole_processes(monkeypatch, capsys):
    first, second = "import torch", "weights list"
    calls = {first: ["-c", "pass"], second: start_up.CALLS[second]}
    monkeypatch.setattr(start_up, "CALLS", calls)
    monkeypatch.setattr(start_up, "NUM_PICTURES", 1)
    assert main(["start_up", *FEW]) == 0
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line[:12].rstrip() for line in lines] == [first, second]
    assert [float(lines[0].split()[-1])] == [1.0]


def test_a_difference_above_its_bound_is_shown_and_is_exit_code_1(monkeypatch, capsys):
    def wrong(settings):
        yield compare(
            "wrong", "case", settings=settings, ours=lambda: 3, plain=lambda: 1,
            difference=lambda a, b: a - b, bound=1, unit="things",
        )  # fmt: skip

    monkeypatch.setitem(BENCHMARKS, "wrong", wrong)
    assert main(["wrong", *FEW]) == 1
    assert "difference 2 things (bound 1) TOO LARGE" in capsys.readouterr().out


def test_the_goal_is_printed_with_its_verdict():
    row = Row(
        benchmark="b", case="c", ours=0.5, plain=1, difference=0, bound=0, unit="u", goal=2,
        memory_ours=1, memory_plain=10, memory_goal=0.05,
    )  # fmt: skip
    assert "2.00x (goal 2: met)" in text(row)
    assert "= 0.10 (goal 0.05: missed)" in text(row)


def test_both_paths_run_alternately_and_as_often_as_asked():
    calls = []
    compare(
        "b", "c", settings=Settings(repeats=3), ours=lambda: calls.append("ours"),
        plain=lambda: calls.append("plain"), difference=lambda a, b: 0, bound=0, unit="u",
    )  # fmt: skip
    assert calls == ["plain", "ours"] * 3


def test_the_peak_memory_is_that_of_what_ran_in_between():
    watch = PeakMemory(Settings().device)
    held = bytearray(64 * 2**20)
    held[:: 2**12] = b"x" * len(held[:: 2**12])
    del held
    peak = watch.peak()
    if peak is None:
        pytest.skip("this system does not tell the peak memory")
    assert 60 <= peak <= 90


def test_an_unknown_benchmark_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["speed"])
    assert "choose from generator, surrogate_step" in capsys.readouterr().err
