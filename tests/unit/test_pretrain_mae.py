"""Masked-autoencoder pre-training: its loss, its files, and that a stopped run goes on."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from unseg.commands.pretrain_mae import main
from unseg.data import Synthetic
from unseg.engine.pretrain.mae import ImageFolder
from unseg.models import build_surrogate
from unseg.models.autoencoder import Autoencoder
from unseg.models.weights import load_mae
from unseg.utils.errors import UserError

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/pretrain/lab_cpu_debug.yaml")


def write_images(folder: Path, count: int = 6) -> Path:
    (folder / "deep").mkdir(parents=True)
    scenes = Synthetic(count, image_size=72)
    for i in range(count):
        cv2.imwrite(str(folder / ("deep" if i % 2 else "") / f"{i}.png"), scenes[i].image)
    return folder


def run(tmp_path: Path, *overrides: str) -> int:
    return main(
        [CONFIG, f"root={tmp_path / 'images'}", f"output_dir={tmp_path / 'runs'}", *overrides]
    )


def encoder_file(tmp_path: Path, name: str = "mae_lab_cpu_debug") -> Path:
    return tmp_path / "runs" / name / "encoder.pth"


def same(a: Path, b: Path) -> bool:
    left, right = (torch.load(path, weights_only=True)["encoder"] for path in (a, b))
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_the_loss_is_that_of_the_hidden_patches_alone() -> None:
    torch.manual_seed(0)
    surrogate = build_surrogate("tiny", 64)
    model = Autoencoder(
        surrogate.image_encoder, decoder_dim=32, decoder_depth=1, num_heads=4
    ).eval()
    image = torch.rand(2, 3, 64, 64)
    count = model.grid**2
    order = torch.stack([torch.randperm(count) for _ in range(2)])
    visible = count // 4
    with torch.no_grad():
        found = model(image, order, visible)
        # The slow way: one image, one patch at a time.
        pixels = model.normalise(image)
        encoded = model.encode(pixels, order[:, :visible])
        for row in range(2):
            tokens = model.hidden_token.expand(count, -1).clone()
            for place, patch in enumerate(order[row, :visible].tolist()):
                tokens[patch] = model.reduce(model.norm(encoded[row, place]))
            painted = model.paint(model.decoder((tokens + model.decoder_positions)[None]))[0]
            errors = []
            for patch in order[row, visible:].tolist():
                y, x = divmod(patch, model.grid)
                p = model.patch
                cut = pixels[row, :, y * p : (y + 1) * p, x * p : (x + 1) * p].reshape(-1)
                cut = (cut - cut.mean()) / torch.sqrt(cut.var() + 1e-6)
                errors.append(((painted[patch] - cut) ** 2).mean())
            assert found[row] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-4)
        # What is painted where the encoder has looked does not count.
        other = order.clone()
        other[:, :visible] = order[:, :visible].flip(1)
        assert torch.allclose(model(image, other, visible), found, rtol=1e-4)


def test_pre_training_lowers_its_loss_and_fits_the_surrogate(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    assert run(tmp_path, "steps=60", "batch_size=6", "lr=3e-3", "log_every=1") == 0
    log = (tmp_path / "runs/mae_lab_cpu_debug/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["pretrain/loss"] for line in log]
    assert len(losses) == 60
    assert np.mean(losses[-6:]) < 0.95 * np.mean(losses[:6])
    surrogate = build_surrogate("tiny", 64)
    before = surrogate.image_encoder.blocks[0].mlp.lin1.weight.clone()
    load_mae(surrogate, encoder_file(tmp_path))
    assert not torch.equal(surrogate.image_encoder.blocks[0].mlp.lin1.weight, before)


def test_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images")
    steps = ("steps=8", "checkpoint_every=3")
    assert run(tmp_path, *steps, "name=whole") == 0
    crop, seen = ImageFolder.crop, []

    def crop_and_stop(self: ImageFolder, index: int, epoch: int) -> torch.Tensor:
        seen.append(index)
        if len(seen) == 18:  # in the fifth step
            signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        return crop(self, index, epoch)

    monkeypatch.setattr(ImageFolder, "crop", crop_and_stop)
    assert run(tmp_path, *steps, "name=stopped") == 130
    assert len(list((tmp_path / "runs/stopped/checkpoints").iterdir())) == 1
    assert not same(encoder_file(tmp_path, "stopped"), encoder_file(tmp_path, "whole"))
    assert run(tmp_path, *steps, "name=stopped") == 0
    assert same(encoder_file(tmp_path, "stopped"), encoder_file(tmp_path, "whole"))
    done = len(seen)
    assert run(tmp_path, *steps, "name=stopped") == 0  # nothing is left to do
    assert len(seen) == done


def test_another_configuration_does_not_go_on_from_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images")
    assert run(tmp_path, "steps=1") == 0
    assert run(tmp_path, "steps=1", "mask_ratio=0.5") == 2
    message = capsys.readouterr().err
    assert "mask_ratio=0.5" in message
    assert "0.75" in message
    assert run(tmp_path, "steps=1", "log_every=7") == 0


def test_folders_without_readable_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"root=.*no such folder"):
        ImageFolder(tmp_path / "none", image_size=32, seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        ImageFolder(tmp_path / "empty", image_size=32, seed=0)
    folder = write_images(tmp_path / "images")
    (folder / "bad.jpg").write_bytes(b"no picture" + os.urandom(64))
    with pytest.raises(UserError, match=r"bad\.jpg"):
        ImageFolder(folder, image_size=32, seed=0)


def test_linked_folders_of_images_are_read(tmp_path: Path) -> None:
    store = write_images(tmp_path / "store")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/here").symlink_to(store)
    assert len(ImageFolder(tmp_path / "set", image_size=32, seed=0)) == 6


def test_crops_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    folder = ImageFolder(write_images(tmp_path / "images"), image_size=32, seed=3)
    first = folder.crop(1, 2)
    folder.crop(0, 5)
    assert first.shape == (3, 32, 32)
    assert torch.equal(first, folder.crop(1, 2))
    assert not torch.equal(first, folder.crop(1, 3))
    assert not torch.equal(first, folder.crop(2, 2))
