"""The released layout: read strictly, written exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from weight_cases import assert_same_state, noise_of, save_sam, tiny_generator

from unseg.models import build_generator
from unseg.models.weights import export_official, load_generator
from unseg.utils.errors import UserError

MASK, NOISE = "mask_decoder.mask_tokens.weight", "mask_decoder.noise_token.weight"


def test_an_official_file_comes_back_with_the_same_bytes_of_every_tensor(tmp_path: Path) -> None:
    first, second = tmp_path / "released.pth", tmp_path / "again.pth"
    torch.save(tiny_generator(seed=1).state_dict(), first)
    generator = load_generator(first)
    assert generator.noise_readout == "official"
    assert not generator.training
    export_official(generator, second)
    before, after = (torch.load(path, weights_only=True) for path in (first, second))
    assert list(after) == list(before)
    for name, value in before.items():
        assert after[name].dtype == value.dtype == torch.float32
        assert after[name].numpy().tobytes() == value.numpy().tobytes(), name


@pytest.mark.golden
def test_an_exported_vit_b_has_the_names_and_shapes_of_the_released_file(
    repository: Path,
) -> None:
    stored = repository / "tests" / "golden" / "parity" / "official_generator_keys.json"
    with torch.device("meta"):
        state = build_generator("vit_b").state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == json.loads(
        stored.read_text()
    )


def test_an_exported_generator_gives_its_own_noise_when_read_as_official(tmp_path: Path) -> None:
    generator = tiny_generator(seed=2)
    path = tmp_path / "Generator_mine_final.pth"
    export_official(generator, path)
    again = load_generator(path)
    assert again.noise_readout == "official"
    wanted = noise_of(generator)
    assert (noise_of(again) - wanted).abs().max() < 1e-5
    torch.save(generator.state_dict(), path)  # the same tensors without the permutation
    assert (noise_of(load_generator(path)) - wanted).abs().max() > 1e-2


def test_the_export_moves_the_token_vectors_and_nothing_else(tmp_path: Path) -> None:
    generator = tiny_generator(seed=3)
    path = tmp_path / "generator.pth"
    export_official(generator, path)
    ours, theirs = generator.state_dict(), torch.load(path, weights_only=True)
    assert torch.equal(theirs[MASK][:3], ours[MASK][:3])
    assert torch.equal(theirs[MASK][3], ours[NOISE][0])
    assert torch.equal(theirs[NOISE][:2], ours[NOISE][1:])
    assert torch.equal(theirs[NOISE][2], ours[MASK][3])
    rest = set(ours) - {MASK, NOISE}
    assert all(torch.equal(theirs[name], ours[name]) for name in rest)


@pytest.mark.parametrize(("size", "image_size"), [("tiny", 64), ("small", 64)])
def test_size_and_image_size_follow_from_the_shapes(
    tmp_path: Path, size: str, image_size: int
) -> None:
    path = tmp_path / "generator.pth"
    state = build_generator(size, image_size, "official").state_dict()
    torch.save(state, path)
    generator = load_generator(path)
    assert generator.build_arguments == {
        "size": size,
        "image_size": image_size,
        "noise_readout": "official",
        "noise_carrier": "rgb",
        "noise_centred": 0,
        "train_encoder": False,
    }
    assert_same_state(generator.state_dict(), state)


@pytest.mark.parametrize(
    ("option", "named"),
    [({"noise_carrier": "luma"}, "='luma'"), ({"noise_centred": 2}, "noise_centred=2")],
)
def test_noise_that_the_layout_cannot_say_is_not_exported_and_the_reason_is_given(
    tmp_path: Path, option: dict[str, Any], named: str
) -> None:
    path = tmp_path / "generator.pth"
    with pytest.raises(UserError, match=f"{named}.*three separate colours.*safetens"):
        export_official(tiny_generator(**option), path)
    assert not path.exists()


def test_an_incomplete_or_foreign_generator_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "generator.pth"
    state = tiny_generator().state_dict()
    torch.save({name: value for name, value in state.items() if "noise_mlp.2" not in name}, path)
    with pytest.raises(UserError, match=r"6 tensors are missing \(.*noise_mlp.2.*complete file"):
        load_generator(path)
    torch.save({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"1 tensor is unexpected \(extra\)"):
        load_generator(path)
    weight = "image_encoder.patch_embed.proj.weight"
    torch.save({**state, weight: torch.zeros(100, 3, 8, 8)}, path)
    with pytest.raises(UserError, match="wrong model size: .*width 100.*known sizes are tiny"):
        load_generator(path)
    save_sam(path)
    with pytest.raises(UserError, match="Segment Anything without noise branches.*load_sam"):
        load_generator(path)
