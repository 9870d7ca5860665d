"""`unseg check` finds what is wrong, and says what JPEG leaves of the noise."""

import json
from pathlib import Path

import numpy as np
import pytest
from generate_cases import make_image, make_set, protect_set
from PIL import Image

from unseg.commands.check import main
from unseg.io.encode import encode_picture
from unseg.io.files import FileContent
from unseg.io.pictures import Picture, read_picture
from unseg.protection.writing.check import check_set, survival
from unseg.utils.errors import UserError


@pytest.fixture
def finished(tmp_path):
    root, out = make_set(tmp_path / "in", 3, size=(48, 40)), tmp_path / "out"
    protect_set(root, out)
    return root, out


def test_a_good_set_is_measured_again_without_faults(finished, capsys):
    root, out = finished
    assert main([str(out), "--against", str(root / "images")]) == 0
    shown = capsys.readouterr().out
    assert "3 images" in shown
    assert "FAULT" not in shown
    checked = check_set(out, root / "images")
    assert 6 < checked.linf <= 8
    by_quality = [checked.survival[q] for q in (95, 75, 50)]
    assert by_quality[0].correlation > by_quality[1].correlation > by_quality[2].correlation
    assert 0 < by_quality[0].correlation <= 1


def test_survival_is_that_of_a_plain_computation():
    clean = Picture(pixels=make_image(0, 40, 48))
    rng = np.random.default_rng(0)
    noise = rng.integers(-6, 7, clean.pixels.shape)
    protected = clean.with_pixels(np.clip(clean.pixels + noise, 0, 255).astype(np.uint8))
    found = survival(clean, protected, quality=75)
    coded = read_picture(
        FileContent(Path("x"), encode_picture(protected, "JPEG", quality=75))
    ).pixels
    a = (protected.pixels.astype(float) - clean.pixels).ravel()
    b = (coded.astype(float) - clean.pixels).ravel()
    assert found.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert found.kept == pytest.approx(np.polyfit(a, b, 1)[0], abs=0.02)
    assert found.rms == pytest.approx(np.sqrt((b * b).mean()))
    assert found.linf == np.abs(b).max()


def test_missing_changed_and_loud_files_are_faults(finished, capsys):
    root, out = finished
    (out / "000.png").unlink()
    loud = read_picture(out / "001.png").pixels ^ 32
    Image.fromarray(loud).save(out / "001.png")
    assert main([str(out), "--against", str(root / "images"), "--quality"]) == 1
    shown = capsys.readouterr().out
    assert "000.png: missing" in shown
    assert "001.png: is not the file that was written" in shown
    assert "its budget is 8" in shown
    assert "002.png" not in shown


def test_a_manifest_that_lies_about_the_region_is_found(finished):
    root, out = finished
    lines = [json.loads(x) for x in (out / "manifest.jsonl").read_text().splitlines()]
    lines[0]["region_share"] = 0.01
    (out / "manifest.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    faults = check_set(out, root / "images", qualities=()).faults
    assert len(faults) == 1
    assert "its region is only 1.00 %" in faults[0]


def test_a_mirrored_set_is_compared_with_the_whole_data_set(tmp_path):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    protect_set(root, out, "output.layout=mirror")
    assert check_set(out, root, qualities=()).count == 2
    assert not check_set(out, root, qualities=()).faults


def test_sets_without_a_manifest_are_paired_by_stem(finished, tmp_path):
    root, out = finished
    (out / "manifest.jsonl").unlink()
    checked = check_set(out, root / "images", qualities=(75,))
    assert checked.count == 3
    assert not checked.faults
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no picture"):
        check_set(tmp_path / "empty", root / "images")
