"""`unseg data check` finds every kind of fault, counts it and exits with 1."""

import json

import annotation_cases as cases
import numpy as np
import pytest
import yaml
from PIL import Image

from unseg.commands.data import FAULTS, main
from unseg.config.load import to_dict


def config_file(tmp_path, config):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": to_dict(config), "noise": {"epsilon": 8}}))
    return str(path)


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "set"
    return root, config_file(tmp_path, cases.write_class_png(root))


def test_a_sound_data_set_passes(voc, capsys):
    assert main(["check", voc[1]]) == 0
    assert capsys.readouterr().out == "2 images, 0 without an object: no fault\n"


def break_path(root):
    (root / "list.txt").write_text("../x\na\n")
    return ["data.list_file=list.txt"]


def break_missing_label(root):
    (root / "labels/a.png").unlink()


def break_missing_image(root):
    (root / "list.txt").write_text("a\nabsent\n")
    return ["data.list_file=list.txt"]


def break_unreadable(root):
    path = root / "images/a.jpg"
    path.write_bytes(path.read_bytes()[:200])


def break_ids(root):
    cases.label(root / "labels/a.png", cases.square(77))


def break_size(root):
    cases.label(root / "labels/b.png", np.zeros((3, 3), np.uint8))


def break_extra(root):
    cases.label(root / "labels/c.png", cases.square(1))


def break_number(root):
    return ["data.expected_items=1464"]


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (break_path, "path", "../x"),
        (break_missing_label, "missing", "labels/a.png"),
        (break_missing_image, "missing", "images/absent.jpg"),
        (break_unreadable, "unreadable", "images/a.jpg"),
        (break_ids, "wrong ids", "class id 77"),
        (break_size, "wrong size", "images/b.jpg"),
        (break_extra, "extra", "labels/c.png"),
        (break_number, "wrong number", "2 images, 1464 as published"),
    ],
)
def test_each_fault_is_listed_counted_and_exits_with_1(voc, capsys, damage, kind, named):
    root, config = voc
    overrides = damage(root) or []
    assert main(["check", config, *overrides]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"{kind}: ") and named in line for line in lines)
    listed = sum(line.startswith(f"{kind}: ") for line in lines)
    assert f"{listed} {kind}" in lines[-1]
    assert all(line.split(": ")[0] in (*FAULTS, "note") for line in lines[:-1])


def test_quick_does_not_decode_images_but_reads_labels(voc):
    root, config = voc
    path = root / "images/a.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (cases.HEIGHT, cases.WIDTH, 3))
    Image.fromarray(noise.astype(np.uint8)).save(path, quality=100)
    path.write_bytes(path.read_bytes()[:-200])
    assert main(["check", config]) == 1
    assert main(["check", config, "--quick"]) == 0
    break_size(root)
    assert main(["check", config, "--quick"]) == 1


def test_annotations_of_unknown_images_are_counted(tmp_path, capsys):
    root = tmp_path / "set"
    config = config_file(tmp_path, cases.write_coco_instances(root))
    content = json.loads((root / "instances.json").read_text("utf-8"))
    content["annotations"].append({"id": 1, "image_id": 99})
    (root / "instances.json").write_text(json.dumps(content))
    assert main(["check", config]) == 1
    assert "1 annotations of images" in capsys.readouterr().out


def test_a_bad_configuration_is_one_line_and_exit_code_2(voc, capsys):
    assert main(["check", voc[1], "data.formt=x"]) == 2
    assert "data.formt" in capsys.readouterr().err
    assert main(["check", voc[1], "data.root=/no/such/place"]) == 2
    assert "no such folder" in capsys.readouterr().err
