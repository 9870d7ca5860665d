"""The safetensors release, training checkpoints, and names of embedded weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from weight_cases import assert_same_state, noise_of, save_sam, tiny_generator, tiny_surrogate

from unseg.io.files import sha256_file
from unseg.models import Generator, embedded
from unseg.models.weights import load_generator, load_sam, resolve_weights, save_mae, save_release
from unseg.utils.errors import UserError


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["unseg"])


def names_in(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


def with_parent(sam: Path, **arguments: object) -> Generator:
    """A generator whose frozen part came from a file."""
    save_sam(sam)
    generator = tiny_generator(seed=5, **arguments)
    load_sam(generator, sam)
    return generator


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"image_size": 64, "noise_readout": "official", "train_encoder": True},
        {"noise_carrier": "luma"},
        {"noise_carrier": "yellow_blue", "noise_centred": 4},
    ],
)
def test_a_release_without_parent_holds_everything_and_comes_back_exactly(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    path = tmp_path / "mine.safetensors"
    generator = tiny_generator(seed=4, **arguments)
    save_release(generator, path, metadata={"steps": 3, "gap": [0.5, None]})
    again = load_generator(path)
    assert again.build_arguments == generator.build_arguments
    assert_same_state(again.state_dict(), generator.state_dict())
    assert torch.equal(noise_of(again), noise_of(generator))
    header = header_of(path)
    assert header["parent"] is None
    assert header["metadata"] == {"steps": 3, "gap": [0.5, None]}


def test_the_same_release_has_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    generator = tiny_generator()
    for path in (first, second):
        save_release(generator, path, metadata={"b": 1, "a": 2})
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("train_encoder", [False, True])
def test_a_release_with_parent_holds_the_trained_tensors_only(
    tmp_path: Path, train_encoder: bool
) -> None:
    sam, path = tmp_path / "sam.pth", tmp_path / "mine.safetensors"
    generator = with_parent(sam, image_size=96, train_encoder=train_encoder)
    save_release(generator, path, metadata={}, parent_path=sam)
    assert names_in(path) == set(generator.trainable_parameters())
    assert header_of(path)["parent"] == {
        "name": "sam.pth",
        "size": sam.stat().st_size,
        "sha256": sha256_file(sam),
    }
    assert_same_state(load_generator(path).state_dict(), generator.state_dict())


def test_a_frozen_tensor_that_is_not_the_parents_is_released_too(tmp_path: Path) -> None:
    sam, path = tmp_path / "sam.pth", tmp_path / "mine.safetensors"
    generator = with_parent(sam)
    name = "mask_decoder.mask_tokens.weight"
    generator.state_dict()[name][3, 5] += 1e-3
    save_release(generator, path, metadata={}, parent_path=sam)
    assert names_in(path) == {*generator.trainable_parameters(), name}
    assert_same_state(load_generator(path).state_dict(), generator.state_dict())


def test_the_parent_is_found_in_its_folder_or_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sam, path = tmp_path / "sam.pth", tmp_path / "mine.safetensors"
    save_release(with_parent(sam), path, metadata={}, parent_path=sam)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained_checkpoint").mkdir()
    kept = sam.rename(tmp_path / "pretrained_checkpoint" / "sam.pth")
    load_generator(path)
    elsewhere = kept.rename(tmp_path / "other.pth")
    load_generator(path, parent=elsewhere)
    with pytest.raises(UserError) as caught:
        load_generator(path)
    message = str(caught.value)
    assert f"needs sam.pth ({elsewhere.stat().st_size:,} bytes" in message
    assert sha256_file(elsewhere) in message
    assert "put it into pretrained_checkpoint/" in message
    save_sam(elsewhere, seed=8)
    with pytest.raises(UserError, match="other.pth: is not the file that .* was trained on"):
        load_generator(path, parent=elsewhere)


def test_float16_halves_the_file_and_loads_as_the_rounded_values(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    generator = tiny_generator(seed=6)
    save_release(generator, whole, metadata={})
    save_release(generator, half, metadata={}, dtype="float16")
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    buffers = {name for name, _ in generator.named_buffers()}
    again = load_generator(half).state_dict()
    for name, value in generator.state_dict().items():
        assert again[name].dtype == torch.float32
        assert torch.equal(again[name], value if name in buffers else value.half().float()), name


def test_values_that_float16_cannot_hold_are_refused_not_made_infinite(tmp_path: Path) -> None:
    generator = tiny_generator()
    generator.state_dict()["mask_decoder.noise_token.weight"][0, 0] = 7e4
    with pytest.raises(UserError, match="noise_token.weight: has values that are not finite"):
        save_release(generator, tmp_path / "a.safetensors", metadata={}, dtype="float16")
    with pytest.raises(UserError, match="metadata must be plain data"):
        save_release(generator, tmp_path / "a.safetensors", metadata={"path": tmp_path})
    assert list(tmp_path.iterdir()) == []


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def edit_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        data = path.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        outer = json.loads(data[8 : 8 + length])
        inner = json.loads(outer["__metadata__"]["unseg"])
        change(inner)
        outer["__metadata__"]["unseg"] = json.dumps(inner)
        text = json.dumps(outer).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "tensors do not match their checksum; download or copy it again"),
        (lambda path: save_file({"a": torch.ones(2)}, path), "does not say 'unseg-generator'"),
        (edit_header(lambda h: h.update(format="other")), "does not say 'unseg-generator'"),
        (edit_header(lambda h: h.update(version=2)), "version 2, this program reads up to 1"),
        (edit_header(lambda h: h.pop("sha256")), "its header is incomplete"),
        (edit_header(lambda h: h.update(parent={"name": 3})), "its header is incomplete"),
        (edit_header(lambda h: h["build_arguments"].update(size="huge")), "cannot be built"),
        (edit_header(lambda h: h["build_arguments"].update(hat=True)), "cannot be built"),
        (edit_header(lambda h: h["build_arguments"].update(size="small")), "wrong model size"),
        (
            edit_header(lambda h: h["build_arguments"].update(image_size=64)),
            r"5 tensors are of the wrong size \(image_encoder.pos_embed is 1 x 16 x 16 x 96",
        ),
    ],
)
def test_a_damaged_or_foreign_release_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "mine.safetensors"
    save_release(tiny_generator(), path, metadata={})
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        load_generator(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_header_cannot_send_the_reader_to_another_folder(tmp_path: Path) -> None:
    sam, path = tmp_path / "sam.pth", tmp_path / "releases" / "mine.safetensors"
    path.parent.mkdir()
    save_release(with_parent(sam), path, metadata={}, parent_path=sam)
    edit_header(lambda h: h["parent"].update(name="../sam.pth"))(path)
    with pytest.raises(UserError, match="not found at"):
        load_generator(path)


def test_the_generator_of_a_training_checkpoint_loads_and_a_faulty_one_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "step_00000010.pt"
    generator, surrogate = tiny_generator(seed=9, noise_carrier="luma"), tiny_surrogate()
    content = {
        "format": "unseg-checkpoint",
        "version": 1,
        "models": {"generator": generator.build_arguments, "surrogate": surrogate.build_arguments},
        "generator": generator.state_dict(),
        "surrogate": surrogate.state_dict(),
        "progress": {"step": 10},
    }
    torch.save(content, path)
    again = load_generator(path)
    assert again.build_arguments == generator.build_arguments
    assert_same_state(again.state_dict(), generator.state_dict())
    torch.save({**content, "models": {}}, path)
    with pytest.raises(UserError, match="checkpoint without models.generator"):
        load_generator(path)
    torch.save({**content, "generator": surrogate.state_dict()}, path)
    with pytest.raises(UserError, match=r"tensors are missing .*; .*wrong size"):
        load_generator(path)


def test_a_pretrained_encoder_is_not_taken_for_a_generator(tmp_path: Path) -> None:
    path = tmp_path / "mae.pth"
    save_mae(tiny_surrogate().image_encoder.state_dict(), path)
    with pytest.raises(UserError, match="pre-trained encoder for the surrogate, no generator"):
        load_generator(path)


def test_a_name_means_the_embedded_file_and_a_missing_one_lists_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "embedded_path", lambda name: tmp_path / f"{name}.safetensors")
    monkeypatch.chdir(tmp_path)
    Path("robust").write_text("a file of that name in the working folder")
    with pytest.raises(UserError, match="'robust' do not come with this installation; give a rel"):
        load_generator("robust")
    save_release(tiny_generator(seed=1), tmp_path / "default.safetensors", metadata={})
    assert resolve_weights("default") == tmp_path / "default.safetensors"
    assert load_generator("default").size == "tiny"
    with pytest.raises(UserError, match=r"defualt: no such weight file; give a name \(default\)"):
        load_generator("defualt")
    assert resolve_weights("./robust") == Path("robust")
