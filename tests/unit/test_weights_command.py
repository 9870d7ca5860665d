"""`unseg weights` on small files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from weight_cases import assert_same_state, noise_of, save_sam, tiny_generator, tiny_surrogate

from unseg.cli import main
from unseg.io.files import sha256_file
from unseg.models import build_surrogate
from unseg.models.weights import load_generator, load_mae, load_sam


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A training checkpoint whose generator's frozen part is `sam.pth` beside it."""
    save_sam(tmp_path / "sam.pth")
    generator = tiny_generator(seed=2)
    load_sam(generator, tmp_path / "sam.pth")
    content = {
        "format": "unseg-checkpoint",
        "models": {"generator": generator.build_arguments},
        "config": {"seed": 42},
        "progress": {"step": 7},
        "best": {"gap": torch.tensor(0.5).item()},
        "generator": generator.state_dict(),
    }
    path = tmp_path / "step.pt"
    torch.save(content, path)
    return path


def test_a_checkpoint_is_exported_in_both_layouts_with_the_same_noise(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = noise_of(load_generator(checkpoint))
    official, release = tmp_path / "Generator_final.pth", tmp_path / "mine.safetensors"
    sam = str(tmp_path / "sam.pth")
    assert main(["weights", "export", str(checkpoint), str(official)]) == 0
    assert main(["weights", "export", str(checkpoint), str(release), "--parent", sam]) == 0
    assert f"{release}: " in capsys.readouterr().out
    assert torch.equal(noise_of(load_generator(release)), wanted)
    assert (noise_of(load_generator(official)) - wanted).abs().max() < 1e-5
    assert release.stat().st_size < 0.5 * official.stat().st_size
    assert main(["weights", "inspect", str(release), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "unseg release"
    assert facts["sha256"] == sha256_file(release)
    assert facts["parent"]["name"] == "sam.pth"
    assert facts["metadata"] == {
        "exported_from": "step.pt",
        "config": {"seed": 42},
        "progress": {"step": 7},
        "best": {"gap": 0.5},
    }


def test_a_release_is_exported_again_with_its_metadata(checkpoint: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert main(["weights", "export", str(checkpoint), str(first)]) == 0
    assert main(["weights", "export", str(first), str(second), "--dtype", "float16"]) == 0
    assert second.stat().st_size < 0.6 * first.stat().st_size
    assert (noise_of(load_generator(second)) - noise_of(load_generator(first))).abs().max() < 0.05


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("sam", ["Segment Anything", "tiny: width 96, 3 blocks, patch 8"]),
        ("official", ["released layout, read as official", "tiny: width 96"]),
        ("checkpoint", ["training checkpoint", '"step": 7']),
        ("mae", ["pre-trained encoder", "tiny: width 96"]),
    ],
)
def test_inspect_says_what_a_file_is(
    checkpoint: Path,
    tmp_path: Path,
    kind: str,
    wanted: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = {"sam": tmp_path / "sam.pth", "checkpoint": checkpoint}.get(kind, tmp_path / "new.pth")
    if kind == "official":
        torch.save(tiny_generator().state_dict(), path)
    if kind == "mae":
        encoder = tiny_surrogate().image_encoder.state_dict()
        torch.save({"format": "unseg-mae", "encoder": encoder}, path)
    assert main(["weights", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in [str(path), sha256_file(path), *wanted]), out


def test_convert_mae_writes_an_encoder_that_load_mae_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "mae.pth", tmp_path / "encoder.pth"
    encoder = tiny_surrogate(seed=3, image_size=64).image_encoder.state_dict()
    renamed = {n.replace("lin1", "fc1").replace("lin2", "fc2"): v for n, v in encoder.items()}
    torch.save({"model": {**renamed, "cls_token": torch.zeros(1, 1, 96)}}, source)
    assert main(["weights", "convert-mae", str(source), str(target)]) == 0
    out = capsys.readouterr().out
    assert "fits tiny" in out
    assert "unused cls_token" in out
    surrogate = build_surrogate("tiny", 64)
    load_mae(surrogate, target)
    assert_same_state(surrogate.image_encoder.state_dict(), encoder)
    assert main(["weights", "convert-mae", str(source), str(target), "--image-size", "60"]) == 2
    assert "--image-size=60: must be a multiple of the patch, 8" in capsys.readouterr().err


def test_bad_calls_end_with_2_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_generator(noise_carrier="luma").state_dict(), "generator.pth")
    for call, message in [
        (["inspect", "nowhere.pth"], "nowhere.pth: no such weight file"),
        (["export", "generator.pth", "out.bin"], "out.bin: the layout follows from the suffix"),
        (["export", "generator.pth", "out.pth", "--dtype", "float16"], "--dtype=float16"),
        (["export", "generator.pth", "no/out.pth"], "the folder no does not exist"),
    ]:
        assert main(["weights", *call]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
    assert main(["weights"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["generator.pth"]


def test_list_shows_what_is_here_and_what_can_be_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, name in [
        ("pretrained_checkpoint", "sam_vit_b_01ec64.pth"),
        ("weight_dir", "Generator_unseg_final.pth"),
    ]:
        Path(folder).mkdir()
        Path(folder, name).write_bytes(bytes(1234))
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert "sam_vit_b_01ec64.pth, frozen part of the vit_b generator: 1,234 bytes" in out
    assert "sam_vit_h_4b8939.pth, frozen part of the vit_h generator: not here" in out
    assert "Generator_unseg_final.pth: 1,234 bytes" in out
    assert "default" in out
