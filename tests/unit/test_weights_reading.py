"""Weight files that must not be taken: each is refused with its name, the reason and a remedy."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weight_cases import assert_same_state, copy_of, save_sam, tiny_generator, tiny_surrogate

from unseg.models.weights import load_generator, load_mae, load_sam
from unseg.utils.errors import UserError


class Payload:
    """A pickle of this makes a folder when it is loaded carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def marker_of(path: Path) -> Path:
    return path.with_name("code-has-run")


def code_in_archive(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(3)}, "extra": Payload(marker_of(path))}, path)


def code_in_legacy_file(path: Path) -> None:
    torch.save(Payload(marker_of(path)), path, _use_new_zipfile_serialization=False)


def code_in_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(marker_of(path))))


def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def cut(write: Callable[[Path], object], keep: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])

    return make


def legacy(path: Path) -> None:
    state = save_sam(path)
    torch.save(state, path, _use_new_zipfile_serialization=False)


def safetensors(path: Path) -> None:
    save_file(save_sam(path), path)


def without_tensor(path: Path) -> None:
    state = save_sam(path)
    del state["image_encoder.blocks.1.attn.qkv.bias"]
    torch.save(state, path)


def with_tensor(path: Path) -> None:
    torch.save({**save_sam(path), "pixel_mean": torch.zeros(3)}, path)


def wrong_shape(path: Path) -> None:
    torch.save({**save_sam(path), "mask_decoder.iou_token.weight": torch.zeros(2, 64)}, path)


def wrong_window(path: Path) -> None:
    """Relative positions of a windowed block do not follow the grid: they are not resampled."""
    name = "image_encoder.blocks.0.attn.rel_pos_h"
    torch.save({**save_sam(path), name: torch.zeros(27, 32)}, path)


def wrong_model(path: Path) -> None:
    save_sam(path, size="small", image_size=64)


def integers(path: Path) -> None:
    state = save_sam(path)
    name = "mask_decoder.iou_token.weight"
    torch.save({**state, name: torch.zeros(1, 64, dtype=torch.int64)}, path)


CASES = {
    code_in_archive: (r"more than tensors.*\(it asks for \S+\.mkdir\)", "holds a state dict"),
    code_in_legacy_file: ("layout of torch before 1.6.*not opened", "torch.save its state dict"),
    legacy: ("layout of torch before 1.6.*not opened", "torch.save its state dict"),
    code_in_plain_pickle: ("plain pickle.*not opened", "written by torch.save or safetensors"),
    torchscript: ("TorchScript archive.*not opened", "holds a state dict"),
    cut(save_sam, 0.6): (r"truncated or damaged \([\d,]+ bytes\)", "download or copy it again"),
    cut(legacy, 0.6): ("layout of torch before 1.6.*not opened", "torch.save its state dict"),
    cut(safetensors, 0.6): (r"truncated or damaged \([\d,]+ bytes\)", "download or copy it again"),
    cut(save_sam, 0): ("is empty", "download or copy it again"),
    lambda path: path.write_text("<html>not found</html>"): ("neither a torch", "download"),
    lambda path: torch.save([torch.ones(3)], path): ("holds a list", "give another file"),
    lambda path: torch.save({"epoch": 3}, path): ("'epoch' is int", "holds a state dict only"),
    lambda path: None: ("no such weight file", "unseg weights list"),
    without_tensor: (
        r"1 tensor is missing \(image_encoder.blocks.1.attn.qkv.bias\)",
        "give the complete file",
    ),
    with_tensor: (r"1 tensor is unexpected \(pixel_mean\)", "give the complete file"),
    wrong_shape: (
        r"1 tensor is of the wrong size \(mask_decoder.iou_token.weight is 2 x 64, not 1 x 64\)",
        "give the complete file",
    ),
    wrong_window: (r"blocks.0.attn.rel_pos_h is 27 x 32, not 13 x 32", "give the complete file"),
    wrong_model: (
        "wrong model size: the file holds an encoder of small: width 384, 6 blocks, patch 16; "
        "the model is of tiny: width 96, 3 blocks, patch 8",
        "build the model with size='small'",
    ),
    integers: ("iou_token.weight' is torch.int64", "holds a state dict only"),
}


@pytest.mark.parametrize(("make", "reason", "remedy"), [(k, *v) for k, v in CASES.items()])
def test_a_faulty_file_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path, make: Callable[[Path], object], reason: str, remedy: str
) -> None:
    path = tmp_path / "weights.pth"
    make(path)
    generator = tiny_generator()
    before = copy_of(generator)
    with pytest.raises(UserError) as caught:
        load_sam(generator, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert re.search(reason, message), message
    assert remedy in message
    assert "\n" not in message
    assert not marker_of(path).exists()
    assert_same_state(generator.state_dict(), before)


@pytest.mark.parametrize("make", [code_in_archive, code_in_legacy_file, code_in_plain_pickle])
def test_code_runs_through_no_loader(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(UserError, match="weights.pth: "):
        load_generator(path)
    with pytest.raises(UserError, match="weights.pth: "):
        load_mae(tiny_surrogate(), path)
    assert not marker_of(path).exists()


def test_the_payload_does_run_where_pickles_are_trusted(tmp_path: Path) -> None:
    # Otherwise the tests above would prove nothing.
    path = tmp_path / "weights.pth"
    code_in_plain_pickle(path)
    pickle.loads(path.read_bytes())
    assert marker_of(path).is_dir()
