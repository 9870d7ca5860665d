"""Every bad input: its status and message in the manifest, the exit code; the rest completes."""

import json
import os
import re
import resource
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from generate_cases import base_overrides, entries_of, make_image, make_mask, make_set
from PIL import Image

from unseg.commands.check import main as check
from unseg.commands.generate import main

pytestmark = pytest.mark.e2e

GOOD = ("000.png", "001.png")
SIGNS = ["method=random_sign", "noise.grid=16"]  # no generator: none of this depends on it


def run(root, out, *overrides, capsys=None):
    """Exit code of `unseg generate`, called as a user calls it."""
    config = root / "config.yaml"
    lines = [*base_overrides(root, out), *SIGNS, *overrides]
    config.write_text("{}\n")
    return main([str(config), *lines])


def image_bytes(root, change):
    path = root / "images/002.png"
    path.write_bytes(change(path.read_bytes()))


def bomb(root):
    """A small file whose header asks for 900 million pixels."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100_000))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)
    (root / "images/002.png").write_bytes(data + chunk(b"IEND", b""))


def pipe(root):
    (root / "images/002.png").unlink()
    os.mkfifo(root / "images/002.png")


def sparse(root):
    os.truncate(root / "images/002.png", 6 << 30)


def list_line(root, line):
    (root / "list.txt").write_text(f"000\n{line}\n001\n")


def link_out(root):
    (root.parent / "secret.png").write_bytes((root / "images/000.png").read_bytes())
    (root / "images/002.png").unlink()
    (root / "images/002.png").symlink_to(root.parent / "secret.png")


def animated(root):
    frames = [Image.new("L", (24, 20), i) for i in (0, 99)]
    frames[0].save(root / "images/002.png", save_all=True, append_images=frames[1:])


def mask_of_another_size(root):
    Image.fromarray(make_mask(9, 9)).save(root / "masks/002.png")


def class_ids(root):
    for path in (root / "masks").iterdir():
        ids = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        if path.name == "002.png":
            ids[3, 3] = 77
        Image.fromarray(ids).save(path)


def coco(**bad):
    """A COCO JSON file over the images, whose third annotation is bad."""

    def change(root):
        images, annotations = [], []
        for i in range(3):
            with Image.open(root / f"images/{i:03d}.png") as image:
                width, height = image.size
            images.append({"id": i, "file_name": f"{i:03d}.png", "height": height, "width": width})
            annotations.append(
                {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 50,
                 "bbox": [2, 2, 9, 9], "segmentation": [[2, 2, 11, 2, 11, 11, 2, 11]]}
            )  # fmt: skip
        annotations[2] |= bad
        images[2]["file_name"] = bad.get("file_name", "002.png")
        content = {"images": images, "annotations": annotations,
                   "categories": [{"id": 1, "name": "thing"}]}  # fmt: skip
        (root / "x.json").write_text(json.dumps(content))

    return change


LISTED = ["data.list_file=list.txt"]
COCO = ["data.format=coco", "data.labels=null", "data.annotations=x.json"]
CLASSES = ["data.format=class_png", "data.num_classes=2", "data.background=[0]"]
SIZE_2 = [26, 22]  # of 002.png, height first, as COCO's RLE has it

BAD_IMAGES = {
    "truncated": (lambda r: image_bytes(r, lambda b: b[:-60]), [], "002.png", r"damaged|truncated"),
    "zero bytes": (lambda r: image_bytes(r, lambda b: b""), [], "002.png", r"empty file"),
    "text": (lambda r: image_bytes(r, lambda b: b"hello\n"), [], "002.png", r"not a picture"),
    "bomb": (bomb, [], "002.png", r"pixels.*smaller"),
    "sparse file of 6 GB": (sparse, [], "002.png", r"002\.png: has 6,442,450,944 bytes, more than"),
    "pipe": (pipe, LISTED, "002.png", r"002\.png: is a pipe, .*not a regular file"),
    "too large for max_pixels": (
        lambda r: Image.fromarray(make_image(0, 60, 60)).save(r / "images/002.png"),
        ["data.max_pixels=900"], "002.png", r"more than 900",
    ),
    "animated": (animated, [], "002.png", r"animated|several"),
    "missing image": (
        lambda r: list_line(r, "nowhere"), LISTED, "nowhere.jpg", r"no such file",
    ),
    "missing mask": (
        lambda r: (r / "masks/002.png").unlink(), [], "002.png", r"masks/002\.png.*no such file",
    ),
    "climbing path": (
        lambda r: list_line(r, "../secret"), LISTED, "../secret", r"list\.txt.*without '\.\.'",
    ),
    "absolute path": (
        lambda r: list_line(r, "/etc/passwd"), LISTED, "/etc/passwd", r"list\.txt.*path below",
    ),
    "link out of the root": (link_out, LISTED, "002", r"symbolic link"),
    "mask of another size": (
        mask_of_another_size, [], "002.png",
        r"masks/002\.png: label is 9 x 9 but the image 26 x 22",
    ),
    "text as a mask": (
        lambda r: (r / "masks/002.png").write_text("x"), [], "002.png", r"masks/002\.png.*picture",
    ),
    "class id out of range": (class_ids, CLASSES, "002.png", r"class id 77 out of range"),
    "RLE too short": (
        coco(segmentation={"size": SIZE_2, "counts": [10, 20]}), COCO, "002.png", r"x\.json.*RLE",
    ),
    "RLE too long": (
        coco(segmentation={"size": SIZE_2, "counts": [10, 9000]}), COCO, "002.png", r"x\.json.*RLE",
    ),
    "RLE of another size": (
        coco(segmentation={"size": [5, 5], "counts": [0, 25]}), COCO, "002.png", r"x\.json",
    ),
    "NaN polygon": (
        coco(segmentation=[[2, 2, float("nan"), 2, 9, 9]]), COCO, "002.png",
        r"x\.json.*([Nn]a[Nn]|finite)",
    ),
    "climbing file name in JSON": (
        coco(file_name="../secret.png"), COCO, "../secret.png", r"without '\.\.'",
    ),
}  # fmt: skip
"""Name -> (what is done to a set of three, overrides, key in the manifest, message)."""


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_recorded_with_its_reason_and_the_rest_completes(tmp_path, name, capsys):
    change, overrides, key, message = BAD_IMAGES[name]
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    change(root)
    if overrides == LISTED and name == "link out of the root":
        list_line(root, "002")
    assert run(root, out, *overrides) == 1
    entries = entries_of(out)
    assert {k: e["status"] for k, e in entries.items()} == {
        key: "failed", **dict.fromkeys(GOOD, "protected")
    }  # fmt: skip
    reason = entries[key]["reason"]
    assert re.search(message, reason), reason
    assert "\n" not in reason
    assert "unexpected" not in reason, reason
    assert sorted(p.name for p in out.glob("*.png")) == list(GOOD)
    assert not (tmp_path / "secret.out").exists()
    assert reason in capsys.readouterr().out


def duplicate_stem(root, out):
    for folder in ("images", "masks"):
        (root / f"{folder}/000.bmp").write_bytes((root / f"{folder}/000.png").read_bytes())
    return []


def unwritable(root, out):
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("a file where the folder should be")
    return []


def nested_json(root, out):
    (root / "boxes.json").write_text("[" * 100_000)
    return ["data.format=folder", "data.labels=null", "data.annotations=boxes.json"]


BAD_CALLS = {
    "duplicate stem": (duplicate_stem, r"000\.bmp and 000\.png would both be written to 000\.png"),
    "unwritable output": (unwritable, r"out: cannot be made: .*choose another output\.dir"),
    "output in the input": (lambda r, o: [f"output.dir={r}/images"], r"lies in the input"),
    "no such root": (lambda r, o: ["data.root=nowhere"], r"nowhere: no such folder"),
    "no such list": (lambda r, o: ["data.list_file=no.txt"], r"no\.txt: no such list file"),
    "empty list": (lambda r, o: [(r / "e.txt").write_text("") and "", "data.list_file=e.txt"][1:],
                   r"names no image"),
    "unknown key": (lambda r, o: ["noise.epsilno=1"], r"noise\.epsilno.*did you mean 'epsilon'"),
    "outer budget above inner": (lambda r, o: ["noise.epsilon=1"], r"noise\.epsilon_bg"),
    "seed of thousands of digits": (
        lambda r, o: ["run.seed=" + "9" * 5001], r"override run\.seed=9+\.\.\.: .*4300 digits",
    ),
    "seed of thousands of hexadecimal digits": (
        lambda r, o: ["run.seed=0x" + "f" * 5000], r"override run\.seed=\.\.\.: must be a whole",
    ),
    "NUL in a path": (
        lambda r, o: ['data.labels="a\\0b"'], r"data\.labels=a\\0b: must not hold a NUL character",
    ),
    "nested value": (
        lambda r, o: ["run.seed=" + "[" * 5000], r"override run\.seed=\[+\.\.\.: ",
    ),
    "nested JSON": (
        nested_json, r"boxes\.json: not readable: .*recursion",
    ),
    "no such generator": (
        lambda r, o: ["method=unseg", "generator.path=no.pth"],
        r"generator\.path: no\.pth: no such weight file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_one_line_and_exit_code_2_before_anything_is_written(tmp_path, name, capsys):
    change, message = BAD_CALLS[name]
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    assert run(root, out, *change(root, out)) == 2
    shown = capsys.readouterr().err
    assert re.search(message, shown), shown
    assert len([line for line in shown.splitlines() if line.strip()]) == 1, shown
    assert not out.is_dir()


RECORDS = {
    "nested settings": ("run.json", '{"settings": ' + "[" * 100_000, "damaged"),
    "settings that are a number": ("run.json", '{"settings": 3}', "damaged"),
    "no settings": ("run.json", "{}", "damaged"),
    "an entry with nothing": (
        "manifest.jsonl", '{"key": "000.png", "status": "protected"}', "'000.png' has no 'output'",
    ),
    "an entry without its checksum": (
        "manifest.jsonl", '{"key": "x.png", "status": "unprotected", "output": "x.png"}',
        "'x.png' has no 'input_sha256'",
    ),
    "an entry of another kind": (
        "manifest.jsonl", '{"key": "000.png", "status": "protected", "output": 3}',
        "'000.png' says output=3",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_of_an_earlier_run_are_one_line_and_exit_code_2(tmp_path, name, capsys):
    file, text, message = RECORDS[name]
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    assert run(root, out) == 0
    (out / file).write_text(text + "\n")
    capsys.readouterr()
    assert run(root, out) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if " I unseg." not in t]
    assert line.startswith(f"{out / file}: ")
    assert message in line


def test_a_manifest_line_that_lacks_a_field_is_named_by_the_check(tmp_path, capsys):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    assert run(root, out) == 0
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    del lines[1]["linf_inside"]
    (out / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert check([str(out), "--against", str(root / "images")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "manifest.jsonl: the entry of '001.png' has no 'linf_inside'; delete its line" in line


def test_a_mirror_on_a_full_disk_is_one_line_and_leaves_no_part(tmp_path, capsys):
    """The limit on file sizes stands in for a full disk, for a copied file above it."""
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    (root / "notes.bin").write_bytes(bytes(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        code = run(root, out, "output.layout=mirror", "output.annotations=copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if " I unseg." not in t]
    assert line.startswith(f"{out / 'notes.bin'}: cannot be written: ")
    assert "free some space" in line
    assert not list(out.rglob("*.tmp"))
    assert run(root, out, "output.layout=mirror", "output.annotations=copy") == 0
    assert (out / "notes.bin").read_bytes() == bytes(100_000)


def test_a_file_that_does_not_fit_on_the_disk_fails_alone(tmp_path):
    """The system's limit on file sizes stands in for a full disk: same error path, any machine."""
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    noisy = np.random.default_rng(0).integers(0, 256, (150, 150, 3), dtype=np.uint8)
    Image.fromarray(noisy).save(root / "images/002.png")
    Image.fromarray(make_mask(150, 150)).save(root / "masks/002.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        code = run(root, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    entries = entries_of(out)
    assert code == 1
    assert "free some space" in entries["002.png"]["reason"]
    assert [entries[name]["status"] for name in GOOD] == ["protected"] * 2
    assert run(root, out) == 0  # with space again, the next run finishes it
    assert {e["status"] for e in entries_of(out).values()} == {"protected"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs")
def test_a_full_tmpfs_fails_images_and_leaves_no_half_file(tmp_path):
    root, disk = make_set(tmp_path / "in", 6, size=(60, 60)), tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=56k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        code = run(root, disk / "out")
        names = {p.name for p in (disk / "out").iterdir()}
        sizes = [p.stat().st_size for p in Path(disk / "out").glob("*.png")]
        assert code in (1, 2)
        assert not any(name.endswith(".tmp") for name in names)
        assert all(size > 0 for size in sizes)
        assert len(sizes) < 6
    finally:
        subprocess.run(["umount", str(disk)], check=False)
