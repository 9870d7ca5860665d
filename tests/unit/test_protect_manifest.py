"""The manifest survives what happens to it, and settings are not mixed in one folder."""

import json

import pytest

from unseg.io.files import atomic_write_bytes, remove_temporary
from unseg.protection.writing.manifest import (
    MANIFEST,
    PartWriter,
    check_settings,
    finished,
    join_parts,
    part_name,
    read_manifest,
    reserved,
)
from unseg.utils.errors import UserError


def entry(key, status="protected", **more):
    return {
        "key": key,
        "status": status,
        "output": f"{key}.png",
        "input_sha256": "1",
        "output_sha256": "2",
        **more,
    }


def test_parts_are_joined_in_the_order_of_the_list_and_the_last_line_wins(tmp_path):
    for rank, keys in enumerate((["c", "a"], ["b"])):
        part = PartWriter(tmp_path, rank)
        for key in keys:
            part.append(entry(key, n=1))
        part.append(entry("a", n=2 + rank))
        part.close()
    join_parts(tmp_path, ["a", "b", "missing", "c"])
    assert [(e["key"], e["n"]) for e in read_manifest(tmp_path)] == [("a", 3), ("b", 1), ("c", 1)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [MANIFEST]
    part = PartWriter(tmp_path, 0)
    part.append(entry("new", n=9))
    part.close()
    join_parts(tmp_path, ["new", "a"])
    assert [e["key"] for e in read_manifest(tmp_path)] == ["new", "a", "b", "c"]


def test_a_line_cut_off_by_a_crash_is_left_out_and_does_not_spoil_the_next_run(tmp_path):
    part = PartWriter(tmp_path, 0)
    part.append(entry("a"))
    part.close()
    with (tmp_path / part_name(0)).open("ab") as file:
        file.write(b'{"key": "b", "status": "prot')
    assert set(finished(tmp_path)) == {"a"}
    join_parts(tmp_path)
    part = PartWriter(tmp_path, 0)
    part.append(entry("c"))
    part.close()
    assert set(finished(tmp_path)) == {"a", "c"}


def test_failed_images_are_not_finished_and_a_later_failure_takes_back_an_entry(tmp_path):
    part = PartWriter(tmp_path, 0)
    for one in (entry("a"), entry("b", "failed"), entry("c", "unprotected"), entry("a", "failed")):
        part.append(one)
    part.close()
    assert set(finished(tmp_path)) == {"c"}


def test_keys_that_are_no_valid_text_are_recorded(tmp_path):
    part = PartWriter(tmp_path, 0)
    part.append(entry("bad \udcff name"))
    part.close()
    assert len(list(read_manifest(tmp_path))) == 1


def test_other_settings_are_refused_by_their_keys(tmp_path):
    check_settings(tmp_path, {"noise.epsilon": 8, "generator.sha256": "a" * 64}, replace=False)
    check_settings(tmp_path, {"noise.epsilon": 8, "generator.sha256": "a" * 64}, replace=False)
    with pytest.raises(UserError) as error:
        check_settings(tmp_path, {"noise.epsilon": 4, "generator.sha256": "b" * 64}, replace=False)
    message = str(error.value)
    assert "noise.epsilon: was 8, is 4" in message
    assert "generator.sha256: was" in message
    assert "run.restart=true" in message
    assert "\n" not in message
    check_settings(tmp_path, {"noise.epsilon": 4}, replace=True)
    check_settings(tmp_path, {"noise.epsilon": 4}, replace=False)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        check_settings(tmp_path, {}, replace=False)


def test_a_second_run_into_one_folder_is_refused_while_the_first_one_lives(tmp_path):
    with reserved(tmp_path), pytest.raises(UserError, match="another run"), reserved(tmp_path):
        pass
    with reserved(tmp_path):
        pass


def test_only_files_that_a_killed_run_left_are_removed(tmp_path):
    (tmp_path / "a").mkdir()
    atomic_write_bytes(tmp_path / "a/x.png", b"1")
    left = tmp_path / "a/.x.png.0123456789ab.tmp"
    mine = [tmp_path / "a/.hidden", tmp_path / "notes.tmp", tmp_path / ".x.tmp"]
    for path in (left, *mine):
        path.write_bytes(b"")
    assert remove_temporary(tmp_path) == 1
    assert not left.exists()
    assert all(path.exists() for path in mine)


def test_a_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.jsonl"):
        list(read_manifest(tmp_path))


def test_lines_are_whole_json_objects(tmp_path):
    part = PartWriter(tmp_path, 0)
    part.append(entry("ä\n", psnr=None))
    part.close()
    lines = (tmp_path / part_name(0)).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["ä\n"]
