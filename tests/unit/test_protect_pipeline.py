"""One process, one run: prompts, regions, methods, failures, memory."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from generate_cases import (
    entries_of,
    make_config,
    make_image,
    make_mask,
    make_set,
    protect_set,
    tree_bytes,
)
from PIL import Image

from unseg.io.files import sha256_file
from unseg.io.pictures import read_picture
from unseg.protection.run import generate
from unseg.protection.writing.manifest import read_manifest
from unseg.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_image_is_written_within_its_budget_and_recorded(tmp_path):
    root, out = make_set(tmp_path / "in", 5), tmp_path / "out"
    summary = protect_set(root, out, "output.noise=true", "output.contact_sheet=3")
    assert summary.exit_code == 0
    assert summary.counts["protected"] == 5
    entries = list(read_manifest(out))
    assert [e["key"] for e in entries] == [f"{i:03d}.png" for i in range(5)]
    for entry in entries:
        clean = read_picture(root / "images" / entry["key"]).pixels.astype(int)
        path = out / entry["output"]
        change = np.abs(read_picture(path).pixels - clean).max(axis=2)
        region = np.asarray(Image.open(root / "masks" / entry["key"])) > 127
        assert entry["linf_inside"] == change[region].max() <= 8
        assert entry["linf_outside"] == change[~region].max() <= 2
        assert entry["linf_inside"] > 6
        assert entry["input_sha256"] == sha256_file(root / "images" / entry["key"])
        assert entry["output_sha256"] == sha256_file(path)
        assert entry["region_share"] == pytest.approx(region.mean(), abs=1e-5)
        assert entry["prompt"] == "mask"
        assert (out / "unseg_noise" / f"{entry['key']}.png").is_file()
    stored = json.loads((out / "summary.json").read_text())
    assert stored["protected"] == stored["total"] == 5
    assert stored["linf_inside_max"] == max(e["linf_inside"] for e in entries)
    assert read_picture(out / "contact_sheet.png").size == (3 * 192, 3 * 192)
    assert "protected" in summary.table()
    names = {p.name for p in out.iterdir()}
    assert not any(name.endswith(".tmp") or ".part-" in name for name in names)


def test_an_image_without_a_protected_pixel_is_copied_and_reported(tmp_path):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    Image.fromarray(np.zeros((24, 20), np.uint8)).save(root / "masks/000.png")
    summary = protect_set(root, out)
    assert (summary.exit_code, summary.counts["unprotected"]) == (0, 1)
    entry = entries_of(out)["000.png"]
    assert (entry["status"], entry["linf_inside"], entry["psnr"]) == ("unprotected", 0, None)
    clean = read_picture(root / "images/000.png").pixels
    assert np.array_equal(read_picture(out / "000.png").pixels, clean)
    assert protect_set(root, out).kept == 2
    failing = protect_set(root, tmp_path / "b", "region.on_empty=error")
    assert failing.exit_code == 1
    assert "region.on_empty=copy" in entries_of(tmp_path / "b")["000.png"]["reason"]


@pytest.mark.parametrize("kind", ["mask", "box", "points", "whole"])
def test_prompts_steer_the_noise_but_not_the_region(tmp_path, kind):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    protect_set(root, out, f"prompt.kind={kind}")
    entry = entries_of(out)["000.png"]
    region = make_mask(24, 20) > 0
    assert entry["prompt"] == kind
    assert entry["region_share"] == pytest.approx(region.mean(), abs=1e-5)
    assert entry["linf_outside"] <= 2
    if kind != "mask":
        protect_set(root, tmp_path / "mask")
        assert tree_bytes(tmp_path / "mask") != tree_bytes(out)


def test_a_mask_that_vanishes_on_the_prompt_grid_prompts_by_its_box(tmp_path):
    root, out = make_set(tmp_path / "in", 1, size=(90, 90)), tmp_path / "out"
    mask = np.zeros((90, 90), np.uint8)
    mask[40, 41] = 255
    Image.fromarray(mask).save(root / "masks/000.png")
    protect_set(root, out)
    entry = entries_of(out)["000.png"]
    assert (entry["status"], entry["prompt"]) == ("protected", "box")
    assert "vanishes" in entry["notes"][0]
    assert protect_set(root, tmp_path / "b", "region.map=official").counts["unprotected"] == 1


def test_instances_get_prompts_of_their_own(tmp_path):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    for i in range(2):
        ids = np.zeros((24 + i, 20 + i), np.uint8)
        ids[2:9, 2:9], ids[12:20, 10:18] = 1, 2
        Image.fromarray(ids).save(root / f"masks/{i:03d}.png")
    classes = ["data.format=class_png", "data.num_classes=3", "data.background=[0]"]
    protect_set(root, out, *classes, "prompt.per_instance=true", "run.batch_size=2")
    assert entries_of(out)["000.png"]["num_prompts"] == 2
    protect_set(root, tmp_path / "union", *classes, "run.batch_size=2")
    assert tree_bytes(out) != tree_bytes(tmp_path / "union")
    protect_set(root, tmp_path / "one", *classes, "region.mode=single", "region.classes=[2]")
    share = entries_of(tmp_path / "one")["000.png"]["region_share"]
    assert share == pytest.approx(64 / 480, abs=1e-5)


@pytest.mark.parametrize(
    "method", ["random_sign", "fixed_sign", "tiled_sign", "flat", "shuffled", "jpeg_only"]
)
def test_the_controls_run_through_the_same_pipeline(tmp_path, method):
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    summary = protect_set(root, out, f"method={method}", "output.quality=60")
    assert summary.counts["protected"] == 3
    entry = entries_of(out)["001.png"]
    assert entry["method"] == method
    if method != "jpeg_only":
        assert 6 < entry["linf_inside"] <= 8
        assert entry["linf_outside"] <= (8 if method == "flat" else 2)
    protect_set(root, tmp_path / "again", f"method={method}", "output.quality=60")
    assert tree_bytes(out) == tree_bytes(tmp_path / "again")


def test_shuffled_noise_is_that_of_another_image(tmp_path):
    root = make_set(tmp_path / "in", 2, size=(24, 24))
    for i in range(2):  # two images of one size: what one carries, the other was made for
        Image.fromarray(np.full((24, 24, 3), 120 + 10 * i, np.uint8)).save(
            root / f"images/{i:03d}.png"
        )
        Image.fromarray(make_mask(24, 24)).save(root / f"masks/{i:03d}.png")
    protect_set(root, tmp_path / "own")
    protect_set(root, tmp_path / "other", "method=shuffled")

    def change(out, i):
        written = read_picture(tmp_path / out / f"{i:03d}.png").pixels.astype(int)
        return written - (120 + 10 * i)

    assert np.array_equal(change("other", 0), change("own", 1))
    assert np.array_equal(change("other", 1), change("own", 0))
    assert not np.array_equal(change("own", 0), change("own", 1))
    with pytest.raises(UserError, match="two images"):
        protect_set(root, tmp_path / "x", "method=shuffled", "run.limit=1")


def test_signs_need_no_generator_when_the_grid_is_given(tmp_path):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    summary = generate(make_config(root, out, "method=random_sign", "noise.grid=16"))
    assert summary.counts["protected"] == 2
    with pytest.raises(UserError, match=r"generator\.path.*noise\.grid"):
        generate(make_config(root, tmp_path / "b", "method=random_sign", "generator.path=none.pt"))


def test_jpeg_is_written_when_asked_and_measured_as_it_is(tmp_path):
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    Image.fromarray(np.zeros((24, 20), np.uint8)).save(root / "masks/000.png")
    Image.open(root / "images/000.png").save(root / "images/000.jpg")
    (root / "images/000.png").unlink()
    summary = protect_set(root, out, "output.format=jpeg", "output.quality=40")
    assert summary.exit_code == 0
    assert entries_of(out)["001.png"]["linf_inside"] > 8
    # An unprotected JPEG is copied, not compressed a second time.
    assert (out / "000.jpg").read_bytes() == (root / "images/000.jpg").read_bytes()
    Image.fromarray(np.zeros((24, 20, 4), np.uint8)).save(root / "images/002.png")
    Image.fromarray(make_mask(24, 20)).save(root / "masks/002.png")
    failing = protect_set(root, out, "output.format=jpeg", "output.quality=40")
    assert "output.format=png" in failing.failures[0][1]


def test_a_dry_run_writes_nothing_and_names_what_is_missing(tmp_path):
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    (root / "list.txt").write_text("000\nnowhere\n002\n")
    summary = protect_set(root, out, "data.list_file=list.txt", "run.dry_run=true")
    assert (summary.counts["planned"], summary.exit_code) == (2, 1)
    assert "no such file" in summary.table()
    assert not out.exists()


def test_a_fault_that_is_ours_is_recorded_and_the_rest_completes(tmp_path, monkeypatch):
    """Not even an unforeseen exception in one image stops the others."""
    from unseg.protection.writing import writer

    real = writer.encode_picture

    def broken(picture, *args, **kwargs):
        if picture.size == (25, 21):
            raise KeyError("surprise")
        return real(picture, *args, **kwargs)

    root, out = make_set(tmp_path / "in", 4), tmp_path / "out"
    monkeypatch.setattr(writer, "encode_picture", broken)
    summary = protect_set(root, out)
    assert (summary.counts["protected"], summary.failed) == (3, 1)
    assert "unexpected KeyError" in entries_of(out)["001.png"]["reason"]


def test_a_codec_that_breaks_the_budget_is_found_by_reading_the_file(tmp_path, monkeypatch):
    from unseg.protection.writing import writer

    real = writer.encode_picture

    def lossy(picture, format, quality):
        return real(picture.with_pixels(picture.pixels ^ 16), format, quality=quality)

    root, out = make_set(tmp_path / "in", 1), tmp_path / "out"
    monkeypatch.setattr(writer, "encode_picture", lossy)
    summary = protect_set(root, out)
    assert summary.failed == 1
    assert "it was removed" in summary.failures[0][1]
    assert not (out / "000.png").exists()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """1,000 more tiny files cost less than 8 kB each (their names, paths and checksums)."""

    def resident():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc")
    tile = Image.fromarray(make_image(0, 8, 8))
    root = tmp_path / "in"
    (root / "images").mkdir(parents=True)
    sizes = {}
    options = ["method=random_sign", "noise.grid=4", "data.format=folder", "data.labels=null"]
    for count in (50, 100, 1100):
        for i in range(count):
            if not (root / f"images/{i}.bmp").exists():
                tile.save(root / f"images/{i}.bmp")
        generate(make_config(root, tmp_path / f"out{count}", *options))
        sizes[count] = resident()
    assert (sizes[1100] - sizes[100]) / 1000 < 8000, sizes
