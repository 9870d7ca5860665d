"""What a user sees for each thing that can be wrong with a training run."""

import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from unseg.commands.train import main

pytestmark = pytest.mark.e2e

OVERRIDES = (
    "device=cpu",
    "data.source=lists",
    "data.train_lists=[pairs.txt]",
    "data.validation_lists=[]",
    "generator.image_size=32",
    "surrogate.image_size=16",
    "loss.num_points=16",
    "schedule.epochs=1",
)


def _write_pairs(place: Path) -> None:
    """Four good pairs and their list."""
    rng = np.random.default_rng(0)
    for i in range(4):
        image = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        mask[8:32, 10:40] = 255
        cv2.imwrite(str(place / f"{i}.jpg"), image)
        cv2.imwrite(str(place / f"{i}.png"), mask)
    (place / "pairs.txt").write_text("".join(f"{i}.jpg\t{i}.png\n" for i in range(4)))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four good pairs and their list."""
    _write_pairs(tmp_path)
    return tmp_path


def _train(folder: Path, *more: str) -> int:
    config = Path(__file__).resolve().parents[2] / "configs/train/unseg_vit_b_debug.yaml"
    paths = (f"data.root={folder}", f"output.dir={folder / 'runs'}")
    return main([str(config), *OVERRIDES, *paths, *more])


def _other_size(folder: Path) -> None:
    cv2.imwrite(str(folder / "1.png"), np.full((20, 20), 255, np.uint8))


def _truncated(folder: Path) -> None:
    data = (folder / "2.jpg").read_bytes()
    (folder / "2.jpg").write_bytes(data[: len(data) // 2])


def _missing_mask(folder: Path) -> None:
    (folder / "3.png").unlink()


def _untouched(folder: Path) -> None:
    pass


REFUSED = {
    "unknown key": (_untouched, ["noise.epsilom=1"], ["override noise.epsilom=1", "'epsilon'"]),
    "wrong type": (
        _untouched,
        ["optim.batch_size=many"],
        ["override optim.batch_size=many: must be a whole number"],
    ),
    "background budget above the object's": (
        _untouched,
        ["noise.epsilon_bg=3"],
        ["override noise.epsilon_bg=3: must be <= noise.epsilon (1)"],
    ),
    "missing folder": (_untouched, ["data.root=nowhere"], ["data.root=nowhere: no such folder"]),
    "missing list": (_untouched, ["data.train_lists=[no.txt]"], ["no.txt: no such list file"]),
    "missing mask": (_missing_mask, [], ["3.png"]),
    "mask of another size": (_other_size, [], ["1.png: mask is 20 x 20", "0.jpg is 48 x 40"]),
    "missing weights": (_untouched, ["generator.weights=no.pth"], ["no.pth"]),
    "nothing to continue": (_untouched, ["--resume"], ["holds no checkpoint to continue from"]),
}
REFUSED["mask of another size"][2][1] = "its image 1.jpg is 48 x 40"


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_before_training_is_one_line_and_exit_code_2(folder, capsys, case):
    spoil, arguments, wanted = REFUSED[case]
    spoil(folder)
    assert _train(folder, *arguments) == 2
    error = capsys.readouterr().err
    # Log lines carry a time; the message is the last line and alone.
    (line,) = [text for text in error.splitlines() if " I unseg." not in text]
    for part in wanted:
        assert part in line
    assert not list(folder.glob("runs/*/checkpoints/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_asked_for_where_there_is_none_is_one_line_and_exit_code_2(folder, capsys):
    assert _train(folder, "device=cuda") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "device=cuda: no CUDA device on this machine; use device=cpu or auto"


@pytest.mark.parametrize("case", ["all-black mask", "truncated JPEG"])
def test_an_unusable_sample_is_skipped_counted_and_listed(folder, capsys, case):
    if case == "all-black mask":
        cv2.imwrite(str(folder / "2.png"), np.zeros((40, 48), np.uint8))
        reason = "mask is all black"
    else:
        _truncated(folder)
        reason = "truncated JPEG"
    assert _train(folder) == 0
    error = capsys.readouterr().err
    assert "1 samples were skipped; see skipped.tsv" in error
    (line,) = (folder / "runs/unseg_vit_b_debug/skipped.tsv").read_text().splitlines()
    part, name, why = line.split("\t")
    assert (part, name) == ("train", "2.jpg")
    assert reason in why


def test_a_disk_that_is_full_at_the_checkpoint_is_one_line_and_exit_code_2(folder, capsys):
    import resource

    assert _train(folder) == 0
    capsys.readouterr()
    checkpoints = folder / "runs/unseg_vit_b_debug/checkpoints"
    (before,) = checkpoints.glob("step_*.pt")
    content = before.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of files fails as a full disk does: in the middle of the write.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        code = _train(folder, "schedule.epochs=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "step_00000002.pt: checkpoint not written" in line
    assert f"{before.name} is intact" in line
    assert [p for p in checkpoints.iterdir() if p.suffix != ".pt"] == []
    assert before.read_bytes() == content


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A folder of pairs with a finished run, and its last checkpoint."""
    place = tmp_path_factory.mktemp("trained")
    _write_pairs(place)
    assert _train(place) == 0
    return place, max((place / "runs/unseg_vit_b_debug/checkpoints").glob("step_*.pt"))


def _without(*keys):
    def change(content):
        for key in keys:
            del content[key]

    return change


def _set(path, value):
    def change(content):
        *places, last = path.split(".")
        for place in places:
            content = content[place]
        content[last] = value

    return change


LYING = {
    "no config": (_without("config"), "config is missing"),
    "no generator": (_without("generator"), "generator is missing"),
    "progress without a step": (_set("progress", {}), "progress.step is missing"),
    "a text for a step": (_set("progress.step", "3"), "progress.step is str"),
    "unknown progress": (_set("progress.epochs", 3), "does not fit this run .*epochs"),
    "another random state": (_set("rng.cpu", torch.zeros(3)), "does not fit this run"),
    "no optimiser": (_set("optimizers", {}), "does not fit this run"),
    "a model of other shapes": (
        _set("generator", {"x": torch.zeros(2)}), "does not fit this run .*Missing key",
    ),
    "no provenance": (_set("provenance", {}), "provenance.samples_sha256 is missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", LYING)
def test_a_checkpoint_that_lies_is_one_line_and_exit_code_2(trained, tmp_path, capsys, case):
    place, whole = trained
    change, wanted = LYING[case]
    content = torch.load(whole, weights_only=True)
    change(content)
    path = tmp_path / "lying.pt"
    torch.save(content, path)
    capsys.readouterr()
    assert _train(place, "name=other", f"resume_from={path}") == 2
    error = capsys.readouterr().err
    (line,) = [text for text in error.splitlines() if " I unseg." not in text]
    assert line.startswith(f"{path}: "), line
    assert re.search(wanted, line), line


def test_checkpoints_of_killed_writes_are_removed_at_the_next_start(folder):
    checkpoints = folder / "runs/unseg_vit_b_debug/checkpoints"
    checkpoints.mkdir(parents=True)
    left = checkpoints / ".step_00000001.pt.0123456789ab.tmp"
    kept = checkpoints / "notes.tmp"
    for path in (left, kept):
        path.write_bytes(bytes(100))
    assert _train(folder) == 0
    assert kept.exists()
    assert not left.exists()
