"""`unseg doctor`: what is found, and what to do about what is missing."""

from __future__ import annotations

import hashlib
import importlib.metadata
import tomllib

import numpy as np
import pytest
from PIL import Image
from real_data_cases import expected_count

from unseg.commands.doctor import main


@pytest.fixture
def report(tmp_path, monkeypatch, capsys):
    """Runs the doctor in an empty folder; gives the lines it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        assert main(list(argv)) == 0
        return capsys.readouterr().out

    return run


def save_pair(folder, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("jpg", "png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / f"{stem}.{ending}")


def test_an_empty_machine_is_told_what_to_do_about_each_missing_thing(report):
    text = report()
    for expected in (
        "Python 3.",
        "torch 2.",
        "usable cores",
        "memory: ",
        "unseg weights download sam_vit_b",
        "unseg weights download mae_vit_b",
        "missing weight_dir/Generator_unseg_final.pth",
        "missing: DIS5K-TR, ThinObject5K-TR, FSS, DUTS-TR",
        "docs/DATASETS.md",
    ):
        assert expected in text


def test_packages_and_extras_are_those_of_the_installation(report, monkeypatch):
    monkeypatch.setattr(
        "importlib.metadata.requires",
        lambda name: ["numpy>=1.26", "no-such-base", 'pillow>=11; extra == "one"',
                      'no.such_tool<7,>=6; python_version < "4" and extra == "two"'],
    )  # fmt: skip
    lines = [line.strip() for line in report().splitlines()]
    assert "missing no-such-base -> pip install -e ." in lines
    assert any(line.startswith("extra [one]: pillow ") for line in lines)
    assert "extra [two]: missing no.such_tool -> pip install -e '.[two]'" in lines


def test_the_extras_of_the_project_file_are_all_reported(report, repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    text = report()
    for extra in project["optional-dependencies"]:
        assert f"extra [{extra}]: " in text


def test_a_source_tree_without_an_installation_is_named(report, monkeypatch):
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", absent)
    assert "unseg is not installed in this Python" in report()


def test_found_weights_come_with_their_checksum(report, tmp_path):
    for name in ("sam_vit_b_01ec64.pth", "modified_mae_pretrain_vit_base.pth"):
        path = tmp_path / "pretrained_checkpoint" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights")
    text = report()
    assert f"sha256 {hashlib.sha256(b'weights').hexdigest()}" in text
    assert "has 7 bytes, the published file has 375,042,383" in text
    assert "weights download" not in text
    assert "sha256" not in report("--no-checksums")


def test_split_weights_count_as_the_whole_file(report, tmp_path):
    folder = tmp_path / "pretrained_checkpoint"
    folder.mkdir()
    for part in ("backbone", "maskdecoder", "prompt_decoder"):
        (folder / f"sam_vit_b_{part}.pth").write_bytes(b"")
    assert "download sam_vit_b" not in report()


def test_found_data_sets_are_counted(report, tmp_path):
    for i in range(3):
        save_pair(tmp_path / "sets" / "cascade_psp" / "ecssd", f"a{i}")
    save_pair(tmp_path / "sets" / "VOCdevkit" / "VOC2012" / "JPEGImages", "b")
    text = report("--data-root", "sets")
    assert "ECSSD: 3 pairs of 1000 published" in text
    assert "PASCAL VOC 2012: 1 image, 0 masks, 0 augmented masks" in text


def test_a_part_with_a_lonely_image_is_named(report, tmp_path):
    folder = tmp_path / "data" / "cascade_psp" / "ecssd"
    save_pair(folder, "a")
    (folder / "a.png").unlink()
    line = next(line for line in report().splitlines() if "ECSSD: " in line)
    assert "a.jpg has no mask" in line


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("voc_images", "PASCAL VOC 2012: {count} images"),
        ("kvasir", "Kvasir-SEG: {count} images, {count} masks"),
    ],
)
def test_real_data_sets_are_found(report, real_data, name, line):
    wanted = line.format(count=expected_count(real_data, name))
    assert wanted in report("--data-root", str(real_data))
