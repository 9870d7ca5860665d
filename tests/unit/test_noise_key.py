"""Noise under a secret: who depends on it, what is written of it, and what is refused."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from generate_cases import entries_of, make_config, make_image, make_mask, make_set, protect_set
from torchvision import tv_tensors

import unseg
from unseg.commands.protect import main as protect_command
from unseg.io.pictures import Picture
from unseg.protection.compose import protected_pixels
from unseg.protection.methods import METHODS, MethodOptions, NoiseKey
from unseg.protection.plan import method_problems
from unseg.protection.writing.budget_check import measure
from unseg.transforms import Protect
from unseg.utils.errors import ConfigError, UserError

SIZE = (37, 52)
SECRET = b"0123456789abcdef-the-owner"
OTHER = b"0123456789abcdef-another"
KEYED = [name for name in METHODS if METHODS[name].takes_key]
UNKEYED_SHA = {
    "unseg": "364d74eba26436b8",
    "random_sign": "862bf6d9b0ce6630",
    "tiled_sign": "c97bd2fb1dda11c8",
    "checks": "73574f81853ba485",
}
"""Of pictures without a key, as they were before there were keys."""


def made(name, secret=None, *, picture=1, key="a", channels=3, dtype=np.uint8):
    image = make_image(picture, *SIZE, channels)
    pixels = image if dtype == np.uint8 else image.astype(np.uint16) * 257
    region = make_mask(*SIZE) > 0
    method = METHODS[name](
        MethodOptions(
            grid=16, carrier="opponent, sharp", key=None if secret is None else NoiseKey(secret)
        )
    )
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
    result = protected_pixels(
        Picture(pixels=pixels),
        key=key,
        region=region,
        method=method,
        noise=noise if method.noise_from != "none" else None,
        device=torch.device("cpu"),
    )
    return pixels, result, region


def change(*args, **options):
    clean, result, _ = made(*args, **options)
    return result.astype(int) - clean


@pytest.mark.parametrize("name", UNKEYED_SHA)
def test_without_a_key_nothing_has_changed(name):
    assert hashlib.sha256(made(name)[1].tobytes()).hexdigest()[:16] == UNKEYED_SHA[name]


@pytest.mark.parametrize("name", KEYED)
def test_the_noise_depends_on_the_key_and_on_the_picture_and_not_on_its_name(name):
    first = change(name, SECRET)
    assert np.array_equal(first, change(name, SECRET))
    assert not np.array_equal(first, change(name, OTHER))
    assert not np.array_equal(first, change(name))
    assert np.array_equal(first, change(name, SECRET, key="renamed"))
    # Signs alone are compared, as pixels near black and white cannot take all of the noise.
    other = change(name, SECRET, picture=2)
    assert abs(float((np.sign(first) * np.sign(other)).mean())) < 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", KEYED)
def test_a_keyed_picture_reaches_and_keeps_the_budget(name, channels, dtype):
    clean, result, region = made(name, SECRET, channels=channels, dtype=dtype)
    found = measure(clean, result, region)
    inside, outside = METHODS[name](MethodOptions()).bounds
    assert 0.85 * inside < found.linf_inside <= inside
    assert 0.5 * outside <= found.linf_outside <= outside


def test_signs_are_those_of_cells_and_no_picture_tells_those_of_another():
    key = NoiseKey(SECRET)
    fields = [key.signs(key.picture(np.full((4, 4, 3), i, np.uint8)), 32)[0, 0] for i in range(64)]
    assert {float(value) for field in fields for value in field.unique()} == {-1, 1}
    assert float(torch.stack(fields).mean(0).abs().mean()) < 0.2
    assert float(torch.stack(fields).mean().abs()) < 0.03
    alike = [float((field[:, 1:] == field[:, :-1]).float().mean()) for field in fields]
    assert 0.48 < np.mean(alike) < 0.52
    coarse = key.signs("0" * 64, 9, cells=2)[0, 0]
    assert coarse.shape == (9, 9)
    assert torch.equal(coarse[:8:2, :8:2], coarse[1:8:2, 1:8:2])
    assert not torch.equal(coarse[:, 1:8], coarse[:, 2:9])


def test_the_signs_of_a_picture_have_more_than_a_seed_of_torch_can_hold():
    """CPU generators of torch read 32 bits of a seed: 2^32 fields could be tried."""
    low, high = (torch.Generator().manual_seed(7 + extra) for extra in (0, 2**32))
    assert torch.equal(torch.rand(9, generator=low), torch.rand(9, generator=high))
    fields = {bytes(NoiseKey.signs(f"{i:064x}", 16).numpy().tobytes()) for i in (7, 7 + 2**32)}
    assert len(fields) == 2


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret.key"
    path.write_bytes(SECRET + b"\n")
    return path


@pytest.mark.parametrize("method", ["unseg", "checks"])
def test_no_written_file_holds_the_secret(method, tmp_path, key_file, caplog):
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    caplog.set_level(logging.DEBUG)
    summary = protect_set(
        root, out, f"method={method}", "noise.grid=16", f"noise.key={key_file}", "output.noise=true"
    )
    assert summary.counts["protected"] == 3
    for path in (p for p in out.rglob("*") if p.is_file()):
        assert SECRET not in path.read_bytes(), path
    assert SECRET.decode() not in caplog.text
    assert NoiseKey(SECRET).fingerprint in (out / "run.json").read_text()
    for entry in entries_of(out).values():
        assert entry["linf_inside"] <= 8
        assert entry["linf_outside"] <= 2


def test_a_run_goes_on_with_its_own_key_alone(tmp_path, key_file, monkeypatch):
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    common = ("method=checks", "noise.grid=16")
    protect_set(root, out, *common, f"noise.key={key_file}")
    # The same secret from another place is the same key.
    monkeypatch.setenv("OWNER_KEY", SECRET.decode())
    again = protect_set(root, out, *common, "noise.key=env:OWNER_KEY")
    assert again.kept == 2
    monkeypatch.setenv("OWNER_KEY", OTHER.decode())
    fingerprints = f"was .{NoiseKey(SECRET).fingerprint}., is .{NoiseKey(OTHER).fingerprint}."
    for place, shown in (("noise.key=env:OWNER_KEY", fingerprints), ("noise.key=null", "is null")):
        with pytest.raises(UserError, match=f"other settings .noise.key: .*{shown}") as caught:
            protect_set(root, out, *common, place)
        assert "\n" not in str(caught.value)
        assert SECRET.decode() not in str(caught.value)


def test_what_is_no_key_is_refused_without_showing_it(tmp_path, monkeypatch):
    typed = "hunter2hunter2hunter2"
    short = tmp_path / "short.key"
    short.write_text("hunter2\n")
    monkeypatch.delenv("NO_KEY", raising=False)
    for place, words in (
        (typed, "never the secret itself"),
        ("x" * 5000, "never the secret itself"),
        (str(tmp_path), "names no file"),
        (str(short), "has 7 bytes, at least 16"),
        ("env:NO_KEY", "env:NO_KEY: there is no such environment variable"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            NoiseKey.read(place)
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "hunter2" not in repr(NoiseKey(typed.encode()))


def test_a_key_is_refused_where_it_would_not_be_read(tmp_path, key_file):
    root = make_set(tmp_path / "in", 1)
    config = make_config(root, tmp_path / "out", "method=jpeg_only", f"noise.key={key_file}")
    (problem,) = method_problems(config)
    assert problem.startswith("noise.key: is read by unseg, ")
    assert problem.endswith("alone, not by jpeg_only")
    with pytest.raises(ConfigError, match=r"prompt.per_instance.*noise\.key"):
        make_config(root, tmp_path / "out", f"noise.key={key_file}", "prompt.per_instance=true")


def test_the_command_for_pictures_takes_a_key(tmp_path, key_file, capsys):
    root = make_set(tmp_path / "in", 1)
    picture = str(root / "images/000.png")
    written = []
    for name, more in (("plain", []), ("keyed", ["--key", str(key_file)])):
        out = tmp_path / name
        assert protect_command([picture, "--output", str(out), "--device", "cpu", *more]) == 0
        written.append((out / "000.png").read_bytes())
    assert written[0] != written[1]
    assert protect_command([picture, "--output", str(tmp_path / "b"), "--key", "none.key"]) == 2
    message = capsys.readouterr().err
    assert "--key: names no file" in message
    assert "none.key" not in message


@pytest.mark.parametrize("boxes", [[[2, 3, 9, 12]], [[2, 3, 9, 12], [11, 4, 17, 20]]])
def test_arrays_and_transforms_have_the_noise_of_files_under_the_same_key(
    boxes, tmp_path, key_file
):
    root, out = make_set(tmp_path / "in", 1), tmp_path / "out"
    picture = str(root / "images/000.png")
    call = [picture, "--output", str(out), "--device", "cpu", "--key", str(key_file)]
    call += ["--generator", "pattern"]  # exact: networks run in the arithmetic of the machine
    call += [word for box in boxes for word in ("--box", ",".join(map(str, box)))]
    assert protect_command(call) == 0
    written, image = (cv2.imread(str(path))[..., ::-1] for path in (out / "000.png", picture))
    generator = unseg.load_generator("pattern", "cpu")
    options = {"boxes": boxes, "generator": generator}
    for key in (SECRET, key_file, str(key_file), NoiseKey(SECRET)):
        assert (unseg.protect(image, key=key, **options).image == written).all()
    for key in (OTHER, None):
        assert (unseg.protect(image, key=key, **options).image != written).any()
    transform = Protect(generator, key=key_file)
    corners = torch.tensor(boxes) + torch.tensor([0, 0, 1, 1])  # boxes of torchvision end beside
    labels = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=image.shape[:2])
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    found, _ = transform(tv_tensors.Image(pixels), labels)
    assert torch.equal(found, torch.from_numpy(written.copy()).permute(2, 0, 1))
    assert SECRET.decode() not in repr(transform)


def test_what_is_no_key_of_an_array_is_refused_in_one_line():
    image = np.zeros((8, 8, 3), np.uint8)
    for key, words in (
        (b"hunter2", "key: the secret has 7 bytes, at least 16"),
        ("hunter2hunter2hunter2", "key: names no file"),
        (7, "key is int; give bytes"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            unseg.protect(image, key=key)
        assert "hunter2" not in str(caught.value)
        assert "\n" not in str(caught.value)
