"""Segment Anything's weights in the generator's frozen part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling.image_encoder import get_rel_pos
from weight_cases import copy_of, save_sam, tiny_generator

from unseg.models import build_generator
from unseg.models.formats.sam import PART_FILES
from unseg.models.weights import load_sam, load_sam_parts
from unseg.utils.errors import UserError

PARTS = ("image_encoder", "prompt_encoder", "mask_decoder")


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_metas_layout_differs_from_ours_by_the_noise_branches_alone(size: str) -> None:
    with torch.device("meta"):
        theirs = sam_model_registry[size]().state_dict()
        ours = build_generator(size).state_dict()
    assert {name for name in ours if name not in theirs} == {n for n in ours if "noise" in n}
    assert {name: value.shape for name, value in theirs.items()} == {
        name: value.shape for name, value in ours.items() if "noise" not in name
    }


@pytest.mark.parametrize("wrapper", [None, "model"])
def test_a_whole_file_fills_the_frozen_part_and_leaves_the_noise_branches(
    tmp_path: Path, wrapper: str | None
) -> None:
    path = tmp_path / "sam.pth"
    state = save_sam(path)
    if wrapper:
        torch.save({wrapper: state}, path)
    generator = tiny_generator()
    before = copy_of(generator)
    report = load_sam(generator, path)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name] if "noise" in name else state[name]), name
    assert set(report.taken) == set(state)
    assert set(report.fresh) == {name for name in before if "noise" in name}
    assert (report.resampled, report.unused) == ((), ())


@pytest.mark.parametrize(("prefixed", "wrapped"), [(False, False), (True, True)])
def test_three_part_files_equal_the_whole_file(
    tmp_path: Path, prefixed: bool, wrapped: bool
) -> None:
    state = save_sam(tmp_path / "sam.pth")
    for part in PARTS:
        tensors = {
            name if prefixed else name.removeprefix(f"{part}."): value
            for name, value in state.items()
            if name.startswith(part)
        }
        torch.save({"model": tensors} if wrapped else tensors, tmp_path / PART_FILES[part])
    generator = tiny_generator()
    report = load_sam(generator, tmp_path)
    assert set(report.taken) == set(state)
    assert all(torch.equal(generator.state_dict()[name], value) for name, value in state.items())


def test_part_files_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    state = save_sam(tmp_path / "sam.pth")
    paths = {part: tmp_path / f"{part}.pth" for part in PARTS}
    for part, path in paths.items():
        torch.save({n: v for n, v in state.items() if n.startswith(part)}, path)
    paths["prompt_encoder"], paths["mask_decoder"] = paths["mask_decoder"], paths["prompt_encoder"]
    with pytest.raises(UserError, match=r"mask_decoder.pth: holds mask_decoder\..*no part of the"):
        load_sam_parts(tiny_generator(), **paths)


def test_a_generator_file_is_not_taken_for_segment_anything(tmp_path: Path) -> None:
    path = tmp_path / "generator.pth"
    torch.save(tiny_generator().state_dict(), path)
    with pytest.raises(UserError, match="holds noise branches.*load_generator"):
        load_sam(tiny_generator(), path)


def test_another_grid_resamples_positions_and_global_blocks_only(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    state = save_sam(path)  # 128 px: 16 tokens per side
    generator = tiny_generator(image_size=96)
    report = load_sam(generator, path)
    changed = {name: (found, wanted) for name, found, wanted in report.resampled}
    assert changed == {
        "image_encoder.pos_embed": ((1, 16, 16, 96), (1, 12, 12, 96)),
        **{
            f"image_encoder.blocks.{block}.attn.rel_pos_{axis}": ((31, 32), (23, 32))
            for block in (1, 2)
            for axis in "hw"
        },
    }
    assert "  resampled image_encoder.pos_embed: 1 x 16 x 16 x 96 -> 1 x 12 x 12 x 96" in (
        report.lines()
    )
    ours = generator.state_dict()
    for name in report.taken:
        assert torch.equal(ours[name], state[name]), name
    name = "image_encoder.blocks.2.attn.rel_pos_w"
    # Segment Anything interpolates such a table itself, at every forward.
    assert torch.equal(get_rel_pos(12, 12, ours[name]), get_rel_pos(12, 12, state[name]))
