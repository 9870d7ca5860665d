"""What a dry run says of disk, host memory and loading."""

import re

import pytest
import yaml
from annotation_cases import HEIGHT, WIDTH, write_class_png

from unseg.config.evaluate import EvaluateConfig
from unseg.config.load import load_config, to_dict
from unseg.victims.grid import needs
from unseg.victims.grid.preflight import plan_lines


@pytest.fixture
def lines(tmp_path):
    """The lines of a grid of two cells on two pictures, with changes."""
    dataset = to_dict(write_class_png(tmp_path / "set"))

    def of(hours=0.001, **section):
        recipe = {"image_size": 64, "lr": 1, "steps": 10, "batch_size": 4}
        grid = {
            "run_dir": str(tmp_path / "run"), "expected_gpu_hours": hours,
            "data": {"set": {"task": "semantic", "train": dataset, "test": dataset, **section}},
            "methods": {"signs": {"method": "random_sign", "options": {"noise.grid": 8}}},
            "victims": {"unet": {"arch": "unet_plain", "recipe": recipe}},
            "grid": [{"data": ["set"], "methods": ["clean", "signs"], "victims": ["unet"]}],
        }  # fmt: skip
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(grid))
        return plan_lines(load_config(EvaluateConfig, path))

    return of


def found(lines, start):
    return next(line for line in lines if line.startswith(start))


def test_sizes_are_those_of_the_pictures_on_the_disk(lines):
    assert found(lines(), "data.set") == "data.set: 2 + 2 pictures of 0.00 megapixels on average"


def test_loading_is_what_a_gpu_uses_up_beside_what_a_core_reads(lines):
    line = found(lines(), "loading")
    assert line.startswith("loading: 22.2 pictures/s for each GPU")  # 2 x 10 x 4 in 3.6 s
    measured, workers = re.search(r"([\d.]+) a core measured here: (\d+) workers", line).groups()
    assert float(measured) > 0
    assert int(workers) >= 1


def test_without_expected_hours_no_speed_is_asked_for(lines):
    assert not any(line.startswith("loading") for line in lines(hours=None))


def test_the_disk_holds_each_protected_set_and_the_reduced_pictures(lines, monkeypatch):
    monkeypatch.setattr(needs, "_gb", lambda count: f"[{count:.0f}]")
    size = round(4 * HEIGHT * WIDTH * needs.PNG_BYTES)
    assert found(lines(), "disk").startswith(f"disk: [{size}] for 1 sets of pictures in ")
    small = round(4 * 16 * 16 * needs.PNG_BYTES)
    reduced = found(lines(protect_size=16, protect_square=True), "disk")
    assert reduced.startswith(f"disk: [{2 * small}] for 2 sets")


def test_too_small_a_disk_is_a_warning(lines, monkeypatch):
    monkeypatch.setattr(needs, "free_bytes", lambda folder: 10)
    assert found(lines(), "WARNING").startswith("WARNING: disk: ")


def test_missing_data_is_named_once_and_asks_for_nothing(lines, tmp_path):
    lines()
    (tmp_path / "set/images").rename(tmp_path / "set/pictures")
    shown = lines()
    assert not any(line.startswith(("disk", "loading", "host memory")) for line in shown)
    assert shown[-1] == "missing in all: 2"
