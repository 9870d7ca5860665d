"""Pre-training of a promptable segmenter: it learns, goes on, and its file fits both players."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from weight_cases import save_sam

from unseg.commands.pretrain_sam import main
from unseg.commands.train import main as train_main
from unseg.commands.weights import main as weights_main
from unseg.engine import bilevel
from unseg.models import build_generator, build_surrogate
from unseg.models.weights import load_generator, load_sam, load_surrogate, save_mae
from unseg.types import Prompts
from unseg.utils.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CONFIG = str(CONFIGS / "pretrain/sam_lab_cpu_debug.yaml")
SIDE = 64


def run(folder: Path, *overrides: str) -> int:
    return main([CONFIG, f"image_size={SIDE}", f"output_dir={folder}", *overrides])


def directory(folder: Path, name: str = "sam_lab_cpu_debug") -> Path:
    return folder / name


def sam(folder: Path, name: str = "sam_lab_cpu_debug") -> dict[str, torch.Tensor]:
    return torch.load(directory(folder, name) / "sam.pth", weights_only=True)


def metric_keys(folder: Path, name: str) -> set[str]:
    """Every name in a run's metrics."""
    lines = (directory(folder, name) / "metrics.jsonl").read_text().splitlines()
    return {key for line in lines for key in json.loads(line)}


def records(folder: Path, name: str, key: str) -> list[float]:
    """The values of a metric, in order."""
    lines = (directory(folder, name) / "metrics.jsonl").read_text().splitlines()
    return [row[key] for line in lines if key in (row := json.loads(line))]


def test_a_segmenter_learns_a_small_set(tmp_path: Path) -> None:
    assert run(tmp_path, "name=it", "steps=50", "drop_at=[]", "lr=2e-3", "validate_every=50") == 0
    losses = records(tmp_path, "it", "train/surrogate/loss")
    assert len(losses) == 50
    assert sum(losses[-10:]) < 0.92 * sum(losses[:10])
    (iou,) = records(tmp_path, "it", "val/synthetic/clean/iou")
    assert 0 <= iou <= 1
    keys = {key.rsplit("/", 1)[0] for key in metric_keys(tmp_path, "it")}
    assert keys <= {"step", "train", "train/surrogate", "val/synthetic", "val/synthetic/clean"}
    (picture,) = (directory(tmp_path, "it") / "images").iterdir()
    assert cv2.imread(str(picture)).shape == (4 * SIDE, 2 * SIDE, 3)


def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ("steps=6", "drop_at=[4]", "validate_every=4")
    assert run(tmp_path, *steps, "name=whole") == 0
    learn, seen = bilevel.clean_step, []

    def learn_and_stop(*arguments: Any, **keywords: Any) -> Any:
        seen.append(1)
        if len(seen) == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        return learn(*arguments, **keywords)

    monkeypatch.setattr(bilevel, "clean_step", learn_and_stop)
    assert run(tmp_path, *steps, "name=stopped") == 130
    assert not (directory(tmp_path, "stopped") / "sam.pth").exists()
    assert run(tmp_path, *steps, "name=stopped") == 0
    assert len(seen) == 6
    whole, stopped = sam(tmp_path, "whole"), sam(tmp_path, "stopped")
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    losses = [records(tmp_path, name, "train/surrogate/loss") for name in ("whole", "stopped")]
    assert losses[0] == losses[1]


def test_its_file_fills_every_frozen_tensor_of_a_generator(tmp_path: Path) -> None:
    assert run(tmp_path, "steps=1") == 0
    path, state = directory(tmp_path) / "sam.pth", sam(tmp_path)
    generator = build_generator("tiny", SIDE)
    report = load_sam(generator, path)
    frozen = {n for n, p in generator.named_parameters() if not p.requires_grad}
    assert frozen <= set(report.taken) == set(state)
    assert all("noise" in name for name in report.fresh)
    assert (report.resampled, report.unused) == ((), ())
    for name in report.taken:
        assert torch.equal(generator.state_dict()[name], state[name]), name
    larger = load_sam(build_generator("tiny", 2 * SIDE), path)
    assert {entry.name for entry in larger.resampled} >= {"image_encoder.pos_embed"}


def test_a_generator_trained_on_its_file_is_released_whole_and_keeps_the_frozen_part(
    tmp_path: Path,
) -> None:
    assert run(tmp_path, "steps=1") == 0
    path, state = directory(tmp_path) / "sam.pth", sam(tmp_path)
    sides = (f"generator.image_size={SIDE}", f"surrogate.image_size={SIDE // 2}")
    options = (f"output.dir={tmp_path}", f"generator.weights={path}", "schedule.steps=4")
    assert train_main([str(CONFIGS / "train/lab_cpu_debug.yaml"), *sides, *options]) == 0
    path.unlink()
    release = tmp_path / "lab_cpu_debug/generator_lab_cpu_debug.safetensors"
    trained = load_generator(release).state_dict()
    assert all(torch.equal(trained[name], value) for name, value in state.items())


def test_its_file_fills_a_surrogate_too(tmp_path: Path) -> None:
    assert run(tmp_path, "steps=1") == 0
    path, state = directory(tmp_path) / "sam.pth", sam(tmp_path)
    surrogate = build_surrogate("tiny", SIDE)
    report = load_surrogate(surrogate, path)
    tokens = "mask_decoder.mask_tokens.weight"
    for name, value in surrogate.state_dict().items():
        assert torch.equal(value, state[name][:3] if name == tokens else state[name]), name
    assert report.fresh == ()
    assert set(report.unused) == state.keys() - surrogate.state_dict().keys()
    with pytest.raises(UserError, match="wrong model size"):
        load_surrogate(build_surrogate("small", 64), path)
    with pytest.raises(UserError, match="this surrogate is 'efficientnet_lite0'"):
        load_surrogate(build_surrogate("efficientnet_lite0", 64), path)


def test_another_size_and_a_checkpoint_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "steps=1") == 0
    path = directory(tmp_path) / "sam.pth"
    capsys.readouterr()
    training = str(CONFIGS / "train/lab_cpu_debug.yaml")
    options = [f"output.dir={tmp_path}", f"generator.weights={path}", "generator.size=small"]
    assert train_main([training, *options]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "wrong model size" in message
    assert "build the model with size='tiny'" in message
    checkpoint = next((directory(tmp_path) / "checkpoints").glob("step_*.pt"))
    with pytest.raises(UserError, match="is a checkpoint of `unseg pretrain-sam`"):
        load_generator(checkpoint)
    with pytest.raises(UserError, match="without noise branches"):
        load_generator(path)
    assert weights_main(["inspect", str(checkpoint)]) == 0
    assert "its surrogate is counted" in capsys.readouterr().out
    assert weights_main(["inspect", str(path)]) == 0
    assert "Segment Anything" in capsys.readouterr().out


def test_a_run_goes_on_under_its_own_configuration_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "steps=1") == 0
    assert run(tmp_path, "steps=1", "lr=1e-3") == 2
    assert "lr: 0.0005 in the checkpoint, 0.001 now" in capsys.readouterr().err
    assert run(tmp_path, "steps=2", "log_every=7") == 0
    training = str(CONFIGS / "train/lab_cpu_debug.yaml")
    assert train_main([training, f"output.dir={tmp_path}", "name=sam_lab_cpu_debug"]) == 2
    assert "is a checkpoint of kind 'pretrain-sam'" in capsys.readouterr().err


def test_it_begins_from_a_mae_file_or_from_a_segmenter(tmp_path: Path) -> None:
    encoder = build_surrogate("tiny", SIDE).image_encoder
    drawn = {n: torch.randn_like(v) for n, v in encoder.state_dict().items() if "neck" not in n}
    save_mae(drawn, tmp_path / "mae.pth")
    state = save_sam(tmp_path / "segmenter.pth", image_size=SIDE)
    for name in ("mae", "segmenter"):
        weights = f"weights={tmp_path / name}.pth"
        assert run(tmp_path, "steps=1", "lr=0", f"name={name}", weights) == 0
    found = sam(tmp_path, "mae")
    assert all(torch.equal(found["image_encoder." + n], value) for n, value in drawn.items())
    found = sam(tmp_path, "segmenter")
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_its_logits_are_the_first_mask_of_segment_anythings_own_decoder() -> None:
    torch.manual_seed(3)
    segmenter = build_surrogate("tiny", SIDE, sam_layout=True).eval()
    prompts = Prompts(boxes=torch.tensor([[8.0, 12.0, 40.0, 50.0]]))
    image = torch.rand(1, 3, SIDE, SIDE)
    with torch.no_grad():
        encoded = segmenter.prompt_encoder(prompts, 1)
        assert encoded.present.all()
        expected, _ = segmenter.mask_decoder.predict_masks(
            segmenter.image_encoder(segmenter.normalise(image)).embedding,
            segmenter.prompt_encoder.get_dense_pe(),
            encoded.sparse,
            encoded.dense,
        )
        found = segmenter(image, prompts)
    assert torch.allclose(found, expected[:, :1], atol=1e-5)
    assert build_surrogate(**segmenter.build_arguments).state_dict().keys() == set(
        segmenter.state_dict()
    )
