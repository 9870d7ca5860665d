"""The frozen splits of the benchmark: lists of `sha256sum` of pictures and their labels."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import pytest

from unseg.config.evaluate import EvaluateConfig
from unseg.config.load import load_config
from unseg.data.annotations import build_source
from unseg.io.files import sha256_file

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "benchmark"
SPLITS = ("train", "test")


def files_of(path: Path) -> dict[str, str]:
    """File below the data set's folder -> its checksum."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line) for line in lines]
    assert all(found), path
    return {match[2]: match[1] for match in found if match}


def test_every_set_of_the_benchmark_has_its_splits_and_no_file_is_in_two_of_them():
    config = load_config(EvaluateConfig, FOLDER / "extended.yaml")
    wanted = {f"{name}_{split}" for name in config.data for split in SPLITS}
    assert {path.stem for path in (FOLDER / "splits").iterdir()} == wanted
    for name in config.data:
        train, test = (files_of(FOLDER / "splits" / f"{name}_{s}.sha256") for s in SPLITS)
        assert not train.keys() & test.keys()
        assert not set(train.values()) & set(test.values())
        for files in (train, test):
            folders = [PurePosixPath(file).parts[0] for file in files]
            assert folders[::2] == [folders[0]] * (len(files) // 2), "a picture, then its label"
            assert folders[1::2] == [folders[1]] * (len(files) // 2)


@pytest.mark.slow
def test_the_files_on_the_disk_are_those_of_the_splits(real_data, monkeypatch, tmp_path):
    (tmp_path / "data").symlink_to(real_data)
    monkeypatch.chdir(tmp_path)
    config = load_config(EvaluateConfig, FOLDER / "extended.yaml")
    for name, data in config.data.items():
        for split in SPLITS:
            dataset = getattr(data, split)
            files = files_of(FOLDER / "splits" / f"{name}_{split}.sha256")
            items = build_source(dataset).items()
            assert len(items) == len(files) // 2
            for item in items:
                for path in (item.image_path, item.label):
                    place = Path(path).relative_to(dataset.root).as_posix()
                    assert sha256_file(path) == files[place], place
