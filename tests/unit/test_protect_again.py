"""One process, run again: what is kept, done anew, refused or finished for a dead rank."""

from dataclasses import replace

import numpy as np
import pytest
from generate_cases import (
    entries_of,
    make_config,
    make_image,
    make_set,
    protect_set,
    saturated_generator,
    save_generator,
    tree_bytes,
)
from PIL import Image

from unseg.protection.plan import prepare
from unseg.protection.run import generate
from unseg.protection.stream import protect_items, record_to
from unseg.protection.writing.manifest import PartWriter
from unseg.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_second_run_keeps_everything_and_writes_no_picture(tmp_path):
    root, out = make_set(tmp_path / "in"), tmp_path / "out"
    protect_set(root, out)
    times = {p: p.stat().st_mtime_ns for p in out.glob("*.png")}
    manifest = (out / "manifest.jsonl").read_bytes()
    summary = protect_set(root, out)
    assert summary.kept == summary.counts["protected"] == 4
    assert {p: p.stat().st_mtime_ns for p in out.glob("*.png")} == times
    assert (out / "manifest.jsonl").read_bytes() == manifest


def test_what_changed_or_went_missing_is_done_again_and_nothing_else(tmp_path):
    root, out = make_set(tmp_path / "in", 6), tmp_path / "out"
    protect_set(root, out)
    before = tree_bytes(out)
    times = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    Image.fromarray(make_image(99, 24, 20)).save(root / "images/000.png")  # changed input
    empty = np.zeros((25, 21), np.uint8)
    empty[:9, :9] = 255
    Image.fromarray(empty).save(root / "masks/001.png")  # changed label
    (out / "002.png").unlink()  # lost output
    with (out / "003.png").open("ab") as file:  # damaged output
        file.write(b"x")
    assert protect_set(root, out).kept == 2
    after = tree_bytes(out)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"000.png", "001.png"}
    for name in ("004.png", "005.png"):
        assert (out / name).stat().st_mtime_ns == times[name]


def test_an_input_that_broke_since_takes_its_old_output_along(tmp_path):
    root, out = make_set(tmp_path / "in"), tmp_path / "out"
    protect_set(root, out)
    (root / "images/001.png").write_bytes(b"no picture")
    summary = protect_set(root, out)
    assert summary.failed == summary.exit_code == 1
    assert not (out / "001.png").exists()
    assert entries_of(out)["001.png"]["status"] == "failed"


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("noise.epsilon=6", "noise.epsilon"),
        ("noise.epsilon_bg=1", "noise.epsilon_bg"),
        ("region.map=official", "region.map"),
        ("method=flat", "method"),
        ("prompt.kind=box", "prompt.kind"),
        ("run.seed=1", "run.seed"),
    ],
)
def test_another_setting_is_refused_and_restart_makes_the_set_anew(tmp_path, override, key):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    protect_set(root, out)
    with pytest.raises(UserError, match=f"{key}: was"):
        protect_set(root, out, override)
    assert protect_set(root, out, override, "run.restart=true").kept == 0


def test_another_generator_is_refused(tmp_path):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    for seed in (0, 1):
        save_generator(tmp_path / f"{seed}.safetensors", seed)
    generate(make_config(root, out, f"generator.path={tmp_path}/0.safetensors"))
    with pytest.raises(UserError, match=r"generator\.sha256: was"):
        generate(make_config(root, out, f"generator.path={tmp_path}/1.safetensors"))


def test_bytes_do_not_depend_on_batches_being_interrupted(tmp_path):
    """Groups are cut by the list, so a half-done group runs in the same shape again."""
    root = make_set(tmp_path / "in", 7)
    protect_set(root, tmp_path / "a", "run.batch_size=4")
    protect_set(root, tmp_path / "b", "run.batch_size=4")
    for name in ("000.png", "002.png", "006.png"):
        (tmp_path / "b" / name).unlink()
    assert protect_set(root, tmp_path / "b", "run.batch_size=4").kept == 4
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")


def test_the_share_of_a_dead_rank_is_finished_by_the_next_run(tmp_path):
    root, out = make_set(tmp_path / "in", 7), tmp_path / "out"
    protect_set(root, tmp_path / "whole", "run.batch_size=2")
    config = make_config(root, out, "run.batch_size=2")
    out.mkdir()
    plan = prepare(config, generator=saturated_generator())
    part = PartWriter(out, 1)
    done = []
    protect_items(replace(plan, rank=1, world_size=2), record_to(part, done.append))
    part.close()
    assert [entry["key"] for entry in done] == ["002.png", "003.png", "006.png"]
    summary = protect_set(root, out, "run.batch_size=2")
    assert summary.kept == 3
    assert tree_bytes(out) == tree_bytes(tmp_path / "whole")


def test_fail_fast_stops_at_the_first_failure(tmp_path):
    root, out = make_set(tmp_path / "in", 30), tmp_path / "out"
    (root / "images/003.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"003\.png.*fail_fast"):
        protect_set(root, out, "run.fail_fast=true", "run.encode_workers=1")
    assert len(entries_of(out)) == 4
    summary = protect_set(root, out)
    assert (summary.kept, summary.failed) == (3, 1)


def test_entries_of_images_that_left_the_list_stay_in_the_manifest(tmp_path):
    root, out = make_set(tmp_path / "in", 4), tmp_path / "out"
    protect_set(root, out)
    (root / "list.txt").write_text("001\n")
    summary = protect_set(root, out, "data.list_file=list.txt")
    assert (summary.total, summary.kept, summary.counts["protected"]) == (1, 1, 1)
    assert len(entries_of(out)) == 4
