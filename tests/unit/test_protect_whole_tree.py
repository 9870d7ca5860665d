"""Every file of a tree is protected, has failed, or is listed; and names are bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import picture_files as made
import pytest
from generate_cases import entries_of, make_config, make_image
from PIL import Image

from unseg.cli import main as unseg
from unseg.data.annotations import build_source
from unseg.io.files import TEMPORARY, temporary_beside
from unseg.protection.reading.given_pictures import GivenPictures, GivenPrompts
from unseg.protection.run import generate
from unseg.protection.writing.summary import Summary
from unseg.utils.errors import UserError

SIGNS = (
    "method=random_sign", "noise.grid=8", "data.format=folder", "data.images=images",
    "data.labels=null",
)  # fmt: skip
RGB = Image.fromarray(make_image(0, 12, 15))
PICTURES = {
    "a.gif": made.saved(RGB, "GIF"),
    "a/b.jfif": made.saved(RGB, "JPEG"),
    "c.jpe": made.saved(RGB, "JPEG"),
    "d.dib": made.saved(RGB, "BMP"),
    "e.pbm": made.saved(RGB.convert("1"), "PPM"),
    "f.PNM": made.saved(RGB, "PPM"),
    "g.mpo": made.saved(RGB, "MPO", save_all=True, append_images=[RGB]),
    "h": made.saved(RGB, "PNG"),
    "i.dat": made.saved(RGB, "WEBP"),
    ".j.png": made.saved(RGB, "TIFF"),
}
FAULTS = {
    "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "of the kind HEIC, which is not read"),
    "b": (b"\0\0\0\x18ftypavif\0\0\0\0", "of the kind AVIF"),
    "c.jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "of the kind JPEG 2000"),
    "d.tga": (b"\0" * 60, "of the kind TGA"),
    "e.nef": (made.saved(RGB, "TIFF"), "of the kind raw camera"),
    "f.apng": (
        made.saved(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", RGB.size)]),
        "several frames",
    ),
    "g.psd": (b"8BPS" + b"\0" * 60, "of the kind Photoshop"),
    "h.jpg": (b"no picture", "not a picture of"),
}
OTHERS = ("notes.txt", ".DS_Store", "._c.jpe", "BM", "P1 is a word", ".x.png.0123456789ab.tmp")


def write_all(folder: Path) -> None:
    """All of the above below a folder."""
    for place, files in (
        ("pictures", PICTURES),
        ("faults", {name: data for name, (data, _) in FAULTS.items()}),
        ("others", {name: name.encode() for name in OTHERS}),
    ):
        for name, data in files.items():
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(".")
    (folder / "nowhere").symlink_to("missing")


def protect(root: Path, out: Path, way: str, *overrides: str) -> Summary:
    """Protect `root/images` as a data set, or as `unseg protect` does."""
    config = make_config(root, out, *SIGNS, *overrides)
    if way == "generate":
        return generate(config)
    source = GivenPictures([root / "images"], GivenPrompts())
    return generate(config, source=source, folders=source.folders)


@pytest.mark.parametrize("way", ["generate", "protect"])
def test_every_file_is_protected_failed_or_listed(tmp_path: Path, way: str) -> None:
    root, out = tmp_path / "in", tmp_path / "out"
    write_all(root / "images")
    summary = protect(root, out, way)
    entries = entries_of(out)
    faults = {f"faults/{name}": words for name, (_, words) in FAULTS.items()}
    faults |= {"pipe": "not a regular file", "loop": "is a link to a folder that it lies in"}
    faults["nowhere"] = "cannot be read: No such file"
    assert {key: e["status"] for key, e in entries.items()} == {
        **{f"pictures/{name}": "protected" for name in PICTURES},
        **dict.fromkeys(faults, "failed"),
    }
    for key, words in faults.items():
        assert words in entries[key]["reason"], key
    lines = map(json.loads, (out / "other_files.jsonl").read_text().splitlines())
    assert {line["file"]: line["what"] for line in lines} == {
        f"others/{name}": "not a picture" for name in OTHERS
    }
    assert summary.exit_code == 1
    assert (f"not a picture{6:>13}").split() == summary.table().splitlines()[10].split()
    assert json.loads((out / "summary.json").read_text())["beside"] == {"not a picture": 6}


def test_a_folder_that_cannot_be_read_has_failed_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("images/a.png", "images/sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        RGB.save(tmp_path / name)
    plain = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("/sub"):
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", refusing)
    protect(tmp_path, tmp_path / "out", "generate")
    entry = entries_of(tmp_path / "out")["sub"]
    assert entry["reason"] == f"{tmp_path / 'images/sub'}: cannot be read: Permission denied"


def test_with_an_ending_the_other_pictures_are_counted(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a_img.png", "a_mask.png", "b.heic"):
        RGB.save(tmp_path / "images" / name, "PNG")
    (tmp_path / "images/c.txt").write_text("c")
    summary = protect(tmp_path, tmp_path / "out", "generate", "data.image_ending=_img.png")
    assert summary.counts == {"protected": 1}
    assert summary.beside == {"without data.image_ending": 2, "not a picture": 1}


def test_links_make_no_tree_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unseg.data.annotations.beside.MAX_FOLDERS", 500)
    images = tmp_path / "images"
    for level in range(20):
        (images / str(level)).mkdir(parents=True)
        for name in "ab":
            (images / f"{level}/{name}").symlink_to(f"../{level + 1}")
    RGB.save(images / "x.png")
    items = build_source(make_config(tmp_path, tmp_path / "out", *SIGNS).data).beside().items
    assert "is the folder number 501 of this data set" in str([item.fault for item in items])


def test_names_that_are_no_text_are_protected_kept_and_printed(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = os.fsdecode(b"caf\xe9 \xff.png")
    (tmp_path / "images").mkdir()
    RGB.save(tmp_path / "images" / name)
    for kept in (0, 1):
        summary = protect(tmp_path, tmp_path / "out", "generate", "output.noise=true")
        assert summary.counts == {"protected": 1}
        assert summary.kept == kept
    assert list(entries_of(tmp_path / "out")) == [name]
    assert (tmp_path / "out" / name).is_file()
    RGB.save(tmp_path / os.fsdecode(b"\xfe.png"))
    call = ["protect", str(tmp_path / os.fsdecode(b"\xfe.png")), "--output", str(tmp_path / "b")]
    assert unseg([*call, "--dry-run"]) == 0
    (tmp_path / os.fsdecode(b"\xfe.png")).write_bytes(b"")
    assert unseg(call) == 1
    assert b"\\udcfe.png: FAILED" in capfdbinary.readouterr().out


@pytest.mark.parametrize("name", ["\N{GRINNING FACE}" * 60 + ".png", "a" * 251 + ".png", "\n.png"])
def test_long_and_odd_names_are_protected(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    RGB.save(tmp_path / "images" / name)
    assert protect(tmp_path, tmp_path / "out", "generate").counts == {"protected": 1}
    temporary = temporary_beside(tmp_path / name)
    assert len(os.fsencode(temporary.name)) < 128
    assert TEMPORARY.fullmatch(temporary.name)


def test_an_input_named_as_the_contact_sheet_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    RGB.save(tmp_path / "images/contact_sheet.png")
    with pytest.raises(
        UserError, match=r"contact_sheet.png.*rename it or set output.contact_sheet"
    ):
        protect(tmp_path, tmp_path / "out", "generate", "output.contact_sheet=1")
    protect(tmp_path, tmp_path / "out", "generate")
    with Image.open(tmp_path / "out/contact_sheet.png") as image:
        assert np.asarray(image).shape == np.asarray(RGB).shape


def test_protect_advises_flags_that_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.png", "a.bmp"):
        RGB.save(tmp_path / name)
    call = ["protect", str(tmp_path / "a.png"), str(tmp_path / "a.bmp"), "--output", "out"]
    assert unseg(call) == 2
    assert "give --keep-suffix or rename one of them" in capsys.readouterr().err
    assert unseg([*call, "--keep-suffix", "--dry-run"]) == 0
