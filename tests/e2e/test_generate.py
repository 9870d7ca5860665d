"""Generation as users start it: configurations, commands, real pictures, the released program."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from generate_cases import (
    entries_of,
    make_image,
    make_mask,
    make_set,
    saturated_generator,
    save_generator,
)
from golden.parity import deterministic
from PIL import Image
from real_data_cases import need

from unseg.cli import main
from unseg.config.generate import GenerateConfig
from unseg.config.load import load_config
from unseg.io.pictures import read_picture
from unseg.models import build_generator
from unseg.protection.run import generate

pytestmark = pytest.mark.e2e

CONFIGS = sorted((Path(__file__).parents[2] / "configs/generate").glob("*.yaml"))
SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("generate_*.sh"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_configuration_has_the_published_budget(path):
    config = load_config(GenerateConfig, path, [])
    budget = (4, 1) if path.stem.startswith("medical") else (8, 2)
    assert (config.noise.epsilon, config.noise.epsilon_bg) == budget
    assert not Path(config.data.root).is_absolute()


@pytest.mark.golden
@pytest.mark.slow
def test_the_parity_image_comes_out_of_the_pipeline_within_one_level(tmp_path):
    """File in, file out, against the released program's own result (region_map: official)."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.fromarray(deterministic.image(375, 500, 0.1)).save(tmp_path / "images/a.png")
    Image.fromarray(deterministic.mask(375, 500).astype(np.uint8) * 255).save(
        tmp_path / "masks/a.png"
    )
    with torch.device("meta"):
        names = build_generator("vit_b").state_dict()
    # As the released file: a bare state dict, without a word on its read-out.
    torch.save(deterministic.fill(names), tmp_path / "Generator_unseg_final.pth")
    options = [
        "data.format=binary_mask", f"data.root={tmp_path}", "data.images=images",
        "data.labels=masks", f"output.dir={tmp_path}/out", "region.map=official",
        f"generator.path={tmp_path}/Generator_unseg_final.pth", "run.device=cpu",
        "run.precision=float32",
    ]  # fmt: skip
    summary = generate(load_config(GenerateConfig, None, options))
    assert summary.counts["protected"] == 1
    with np.load(Path(deterministic.__file__).with_name("golden.npz")) as golden:
        expected = golden["gen_mask_375x500/protected"].astype(int)
    found = read_picture(tmp_path / "out/a.png").pixels
    difference = np.abs(found - expected)
    assert difference.max() <= 1, f"max {difference.max()}, mean {difference.mean():.5f}"
    assert difference.mean() < 0.01


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("weights") / "g.safetensors")


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(make_image(0, 40, 60)).save(tmp_path / "photo.jpg", quality=95)
    Image.fromarray(make_mask(40, 60)).save(tmp_path / "mask.png")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize(
    ("prompt", "source"),
    [
        (["--mask", "mask.png"], "label"),
        (["--box", "5,6,30,30"], "box"),
        (["--box", "5,6,30,30", "--box", "31,2,50,20"], "box"),
        (["--point", "27,22", "--background-point", "2,2"], "points"),
        ([], "whole"),
    ],
)
def test_one_line_protects_a_photo_and_prints_result_psnr_and_budget(
    tmp_path, photo, weights, prompt, source, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    call = ["protect", "photo.jpg", *prompt, "--output", "out", "--generator", str(weights)]
    assert main(call) == 0
    shown = capsys.readouterr().out
    assert re.search(r"out/photo\.png: PSNR \d\d\.\d\d dB, changed by at most [678] of 8", shown)
    assert source in shown
    entry = entries_of(tmp_path / "out")["photo.jpg"]
    assert entry["region"].startswith(source)
    clean, written = read_picture(photo).pixels, read_picture(tmp_path / "out/photo.png").pixels
    assert 6 <= np.abs(written.astype(int) - clean).max() <= 8


def test_a_folder_is_protected_with_its_masks_and_the_run_resumes(tmp_path, weights, capsys):
    root = make_set(tmp_path / "in", 3)
    call = ["protect", f"{root}/images", "--mask", f"{root}/masks", "--output",
            f"{tmp_path}/out", "--generator", str(weights)]  # fmt: skip
    assert main(call) == 0
    shown = capsys.readouterr().out
    assert re.search(rf"{tmp_path}/out: 3 pictures in \d+\.\d s: 3 protected\n", shown)
    assert main(call) == 0
    assert "3 protected (3 by an earlier run)" in capsys.readouterr().out
    assert main([*call, "--epsilon", "4"]) == 2
    assert "noise.epsilon: was 8.0, is 4.0" in capsys.readouterr().err
    assert main(["check", f"{tmp_path}/out", "--against", f"{root}/images"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--box", "1,2,3"], "x0,y0,x1,y1"),
        (["--box", "1,2,3,4", "--point", "1,1"], "one kind of prompt"),
        (["--background-point", "1,1"], "needs a --point"),
        (["--mask", "none.png"], "none.png: no such mask"),
        (["--generator", "none.pth"], "no such weight file"),
        (["--epsilon", "1"], "epsilon_bg"),
        (["--output", "."], None),
    ],
)
def test_a_wrong_call_of_protect_is_one_line(
    tmp_path, photo, weights, arguments, message, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Image.open(photo).save("photo.png")
    call = ["protect", "photo.png", "--output", "out", "--generator", str(weights), *arguments]
    assert main(call) == 2
    shown = capsys.readouterr().err
    assert (message or "would be overwritten by its own output") in shown
    assert shown.count("\n") == 1


def test_a_box_outside_of_the_photo_fails_with_its_reason(tmp_path, photo, weights, capsys):
    call = ["protect", str(photo), "--box", "500,5,600,9", "--output", f"{tmp_path}/out"]
    assert main([*call, "--generator", str(weights)]) == 1
    assert "lies outside of the image of 60 x 40" in capsys.readouterr().out


def test_print_config_and_dry_run_write_nothing(tmp_path, weights, capsys, monkeypatch):
    root = make_set(tmp_path / "in", 2)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{format: binary_mask, root: {root}, images: images, labels: masks}}\n"
        f"output: {{dir: {tmp_path}/out}}\ngenerator: {{path: {weights}}}\n"
    )
    assert main(["generate", str(config), "--print-config"]) == 0
    assert "epsilon_bg: null" in capsys.readouterr().out
    assert main(["generate", str(config), "--dry-run"]) == 0
    assert "would be written  2" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_launcher_protects_what_is_below_data_root(tmp_path, weights):
    root = make_set(tmp_path / "data/LungCT", 2)
    assert root.name == "LungCT"
    script = next(p for p in SCRIPTS if p.stem == "generate_medical")
    call = ["bash", str(script), f"generator.path={weights}", f"output.dir={tmp_path}/out"]
    done = subprocess.run(
        call,
        env={"PATH": "/usr/bin:/bin", "DATA_ROOT": f"{tmp_path}/data", "PYTHON": sys.executable,
             "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "skipped medical_kvasir" in done.stderr
    entries = entries_of(tmp_path / "out")
    assert len(entries) == 2
    assert all(e["linf_inside"] <= 4 and e["linf_outside"] <= 1 for e in entries.values())


COLOURS = (
    "{Building: [60, 16, 152], Land: [132, 41, 246], Road: [110, 193, 228], "
    "Vegetation: [254, 221, 58], Water: [226, 169, 41], Unlabeled: [155, 155, 155]}"
)
REAL = {
    "pascal": ("VOCdevkit/VOC2012", ["data.labels=SegmentationClass",
               "data.list_file=ImageSets/Segmentation/train.txt"]),
    "medical_kvasir": ("Kvasir-SEG", []),
    "remote_nwpu": ("NWPU_VHR-10", ["prompt.per_instance=true"]),
    "camvid": ("CamVid", []),
    "coco": ("coco", ["data.format=coco", "data.labels=null",
             "data.annotations=annotations/instances_train2017.json"]),
    "coco panoptic": ("fixtures/coco_panoptic_sample_data", [
        "data.images=input_images", "data.labels=panoptic_examples",
        "data.annotations=panoptic_examples.json"]),
    "ade20k": ("fixtures/ADEChallengeData2016", ["data.images=images/validation",
               "data.labels=annotations/validation"]),
    "cityscapes": ("fixtures/mmseg_pseudo_cityscapes", ["data.images=leftImg8bit/val",
                   "data.labels=gtFine/val"]),
    "folder potsdam": ("fixtures/mmseg_pseudo_potsdam", ["data.format=class_png",
                       "data.images=img_dir", "data.labels=ann_dir", "data.num_classes=7"]),
    "folder vaihingen": ("fixtures/mmseg_pseudo_vaihingen", ["data.format=class_png",
                         "data.images=img_dir", "data.labels=ann_dir", "data.num_classes=7"]),
    "folder dubai": ("fixtures/DubaiAerial/Tile 1", ["data.format=colour_map",
                     "data.images=images", "data.labels=masks", f"data.colours={COLOURS}"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_the_first_pictures_of_real_sets_are_protected_within_their_budget(
    tmp_path, real_data, name
):
    folder, overrides = REAL[name]
    need(real_data, folder)
    path = next(p for p in CONFIGS if p.stem == name.split()[0])
    config = load_config(
        GenerateConfig,
        path,
        [
            f'data.root="{real_data / folder}"', f"output.dir={tmp_path}/out",
            "output.layout=tree", "run.limit=3", "run.device=cpu", *overrides,
        ],
    )  # fmt: skip
    summary = generate(config, generator=saturated_generator())
    assert summary.exit_code == 0, summary.failures
    assert summary.counts["protected"] + summary.counts["unprotected"] == summary.total
    assert summary.counts["protected"] >= 1
    assert 0.6 * config.noise.epsilon <= summary.linf_inside <= config.noise.epsilon
    assert summary.linf_outside <= config.noise.epsilon_bg
