"""The benchmark of very many pictures, on very few."""

import subprocess
import sys

import pytest

from benchmarks import many_pictures
from benchmarks.many_pictures import Watched, below, main, make_pictures

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.mark.slow
def test_a_tiny_set_is_protected_and_kept(tmp_path, capsys, monkeypatch, repository):
    monkeypatch.chdir(repository)
    assert main([str(tmp_path), "--count", "4", "--ranks", "1"]) == 0
    printed = capsys.readouterr().out
    assert "one process: exit 0" in printed
    assert "one process again, all finished: exit 0" in printed
    assert "one: 4 lines, 4 pictures" in printed
    assert "  rank 0: peak" in printed
    assert printed.endswith("nothing is missing, nothing differs\n")
    assert "kept from earlier runs  4" in (tmp_path / "one.log").read_text()


def test_a_missing_picture_is_exit_code_1(tmp_path, monkeypatch, capsys):
    found = iter([{"a": "1", "b": "2"}, {"a": "1", "b": "2"}, {"a": "1"}])
    monkeypatch.setattr(many_pictures, "checksums", lambda out: next(found))
    monkeypatch.setattr(many_pictures, "watched", lambda *a: Watched(code=int(len(a) > 3)))
    monkeypatch.setattr(many_pictures, "stands_once", lambda *a: True)
    assert main([str(tmp_path), "--count", "2", "--ranks", "3"]) == 1
    assert capsys.readouterr().out.endswith("MISSING, DIFFERENT OR TWICE\n")


def test_a_picture_that_stands_twice_is_seen(tmp_path, capsys):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"key": "a"}\n{"key": "b"}\n')
    assert many_pictures.stands_once(tmp_path, 2)
    assert not many_pictures.stands_once(tmp_path, 3)
    manifest.write_text('{"key": "a"}\n{"key": "b"}\n{"key": "b"}\n')
    assert not many_pictures.stands_once(tmp_path, 3)
    assert capsys.readouterr().out.endswith(": 3 lines, 2 pictures\n")


def test_pictures_are_made_once(tmp_path):
    make_pictures(tmp_path, 3, 16)
    paths = sorted(tmp_path.rglob("*.png"))
    before = [path.stat().st_mtime_ns for path in paths]
    make_pictures(tmp_path, 3, 16)
    assert len(paths) == 6
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_memory_of_descendants_is_told_by_rank():
    code = "import subprocess, sys; subprocess.run(['sleep', '60'], env={'RANK': '3'})"
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        while not below(parent.pid):
            assert parent.poll() is None
        (child,) = below(parent.pid)
        assert below(child) == []
        while many_pictures.rank_of(child) is None:
            assert parent.poll() is None
        seen = Watched()
        seen.look(many_pictures.memory_of_ranks(parent.pid), 4)
        assert set(seen.memory) == {3}
        assert "  rank 3: peak" in seen.lines("sleep", 1)
    finally:
        for pid in below(parent.pid):
            subprocess.run(["kill", str(pid)], check=True)
        parent.wait()
    assert many_pictures.memory_of_ranks(parent.pid) == {}


def test_lines_are_counted_as_a_file_grows(tmp_path):
    path, places = tmp_path / "part", {}
    assert many_pictures._new_lines(path, places) == 0
    path.write_text("a\nb\n")
    assert many_pictures._new_lines(path, places) == 2
    with path.open("a") as file:
        file.write("c\n")
    assert many_pictures._new_lines(path, places) == 1
    path.write_text("d\n")  # joined, and begun again
    assert many_pictures._new_lines(path, places) == 1
