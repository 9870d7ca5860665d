"""A proof on one's own pictures: what it trains, what it says, and when it cannot tell."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from generate_cases import make_set, protect_set
from PIL import Image

from unseg.commands.check import main
from unseg.config.evaluate import RecipeConfig
from unseg.utils.errors import UserError
from unseg.victims.grid import prove as proving
from unseg.victims.grid.proof_pictures import STATES, find_pictures, read_sets
from unseg.victims.grid.prove import FEWEST_PICTURES, FOLDS, Proof, ProofVictim, Trained, prove
from unseg.victims.report.proof import sentences, text_lines

pytest.importorskip("jinja2", reason="jinja2 is missing: pip install -e .[eval]")
pytest.importorskip("matplotlib", reason="matplotlib is missing: pip install -e .[eval]")

RECIPE = RecipeConfig(image_size=16, steps=3, batch_size=8, lr=3e-3)
TINY = {"scratch": ProofVictim("tiny", "unet_plain", "none", RECIPE)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("set")
    root, out = make_set(folder / "in", FEWEST_PICTURES), folder / "out"
    protect_set(root, out)
    return root, out


def trained(*scores: float) -> tuple[Trained, ...]:
    return tuple(Trained(selected=s, peak=s, own=s, curve=((1.0, s),)) for s in scores)


def proof_of(clean: tuple[float, ...], protected: tuple[float, ...], control: float = 0.5) -> Proof:
    results = {
        ("scratch", "clean"): trained(*clean),
        ("scratch", "protected"): trained(*protected),
        ("scratch", "control"): trained(*(control,) * FOLDS),
    }
    return Proof(60, 0, (8.0, 2.0), True, results)


def test_the_command_trains_and_writes_a_page_and_its_numbers(finished, monkeypatch, capsys):
    root, out = finished
    monkeypatch.setattr(proving, "VICTIMS", TINY)
    assert main([str(out), "--against", str(root / "images"), "--prove", "--quality"]) == 0
    shown = capsys.readouterr()
    assert "untrained tile" in shown.out
    assert "cannot tell; it learns too little from the clean pictures" in shown.out
    assert "nan" not in shown.out
    assert "prove 27/27 (100 %)" in shown.err
    page = out.with_name("out_proof.html").read_text(encoding="utf-8")
    assert "Summary" in page
    content = json.loads(out.with_name("out_proof.json").read_text(encoding="utf-8"))
    assert content["num_pictures"] == FEWEST_PICTURES
    assert [one["learnt_from"] for one in content["trained"]] == list(STATES)
    assert all(len(one["folds"]) == FOLDS for one in content["trained"])
    assert content["run"]["command"].startswith("unseg check ")


def test_equal_pictures_give_equal_scores_and_no_protection(finished):
    root, _ = finished
    found = find_pictures(root / "images", root / "images", root / "masks")
    assert not found.is_budget_known
    proof = prove(found, victims=TINY)
    assert proof.trained["scratch", "clean"] == proof.trained["scratch", "protected"]
    same = proof_of((0.6, 0.7, 0.65), (0.6, 0.7, 0.65))
    assert "no protection (0.00 ± 0.00" in sentences(same)[0]


@pytest.mark.parametrize(
    ("clean", "protected", "words"),
    [
        ((0.6, 0.6, 0.6), (0.05, 0.02, 0.0), "strong protection (0.96"),
        ((0.6, 0.6, 0.6), (0.25, 0.2, 0.2), "partial protection"),
        ((0.6, 0.6, 0.6), (0.4, 0.42, 0.41), "weak protection"),
        ((0.6, 0.6, 0.6), (0.6, 0.55, 0.62), "no protection"),
        ((0.6, 0.6, 0.6), (0.6, 0.0, 0.55), "cannot tell; the folds differ too much"),
        ((0.1, 0.05, 0.1), (0.0, 0.0, 0.0), "cannot tell; it learns too little"),
    ],
)
def test_the_sentence_follows_from_the_numbers(clean, protected, words):
    assert words in sentences(proof_of(clean, protected))[0]


def test_the_control_is_named_and_a_victim_that_learnt_nothing_in_a_fold_is_left_out():
    assert "as much as the tile (0.17)" in sentences(proof_of((0.6,) * 3, (0.5,) * 3))[-1]
    assert "more than the tile" in sentences(proof_of((0.6,) * 3, (0.0,) * 3))[-1]
    assert "less than the tile" in sentences(proof_of((0.6,) * 3, (0.6,) * 3))[-1]
    wide = sentences(proof_of((0.6,) * 3, (0.0, 0.3, 0.6)))[-1]
    assert "the folds cannot tell it from the tile (0.17)" in wide
    proof = proof_of((0.0, 0.6, 0.6), (0.0, 0.0, 0.0))
    assert math.isnan(proof.protection("scratch", "protected")[0])
    assert "1.00" in sentences(proof)[0]


def test_too_few_pictures_are_not_trained_on(tmp_path, capsys):
    root = make_set(tmp_path, 5)
    images = str(root / "images")
    call = [images, "--against", images, "--masks", str(root / "masks"), "--prove", "--quality"]
    assert main([*call, "--report", str(tmp_path / "page.html")]) == 0
    assert f"Too few pictures to tell: 5 with a mask, at least {FEWEST_PICTURES} are needed" in (
        capsys.readouterr().out
    )
    assert "Too few" in (tmp_path / "page.html").read_text()


def test_pictures_without_an_object_are_left_out_and_no_masks_are_a_clear_error(
    finished, tmp_path, capsys
):
    root, out = finished
    masks = tmp_path / "masks"
    shutil.copytree(root / "masks", masks)
    (masks / "000.png").unlink()
    Image.fromarray(np.zeros((25, 21), np.uint8)).save(masks / "001.png")
    found = find_pictures(out, root / "images", masks)
    assert (len(found.pictures), found.num_without) == (FEWEST_PICTURES - 2, 2)
    assert "2 pictures have no mask" in text_lines(prove(found, victims=TINY))[0]
    with pytest.raises(
        UserError, match="has no config.yaml of a generation; give the objects' masks"
    ):
        find_pictures(root / "images", root / "images", None)
    assert main([str(out), "--against", str(root), "--masks", str(masks)]) == 2
    assert "--masks and --report: for --prove alone" in capsys.readouterr().err


def test_the_control_keeps_the_budget_of_the_protection(finished):
    root, out = finished
    found = find_pictures(out, root / "images", None)
    assert found.is_budget_known
    assert found.budget == (8.0, 2.0)
    sets = read_sets(found, [24])
    change = sets[24, "control"].images.int() - sets[24, "clean"].images.int()
    assert 0 < change.abs().max() <= 9
    assert sets[24, "clean"].keys == sets[24, "protected"].keys
