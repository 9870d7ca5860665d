"""MAE weights in the surrogate's encoder, against timm's ViT and a closed form of resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from segment_anything.modeling.image_encoder import get_rel_pos
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from unseg.models import Surrogate, build_surrogate
from unseg.models.weights import load_mae, read_mae, save_mae
from unseg.utils.errors import UserError

DECODER = {
    "mask_token": (1, 1, 8),
    "decoder_pos_embed": (1, 65, 8),
    "decoder_embed.weight": (8, 96),
    "decoder_blocks.0.attn.qkv.weight": (24, 8),
    "decoder_norm.weight": (8,),
    "decoder_pred.weight": (192, 8),
}


def random_vit(vit: VisionTransformer, seed: int = 0) -> dict[str, Tensor]:
    """Fill a timm ViT without class token; return Meta's file for it, class token included."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in vit.state_dict().items():
            value.normal_(
                1.0 if "norm" in name and name.endswith("weight") else 0, 0.015, generator=rng
            )
    state = {name: value.clone() for name, value in vit.state_dict().items()}
    width = state["pos_embed"].shape[-1]
    state["cls_token"] = torch.randn(1, 1, width, generator=rng)
    of_class = torch.randn(1, 1, width, generator=rng)
    state["pos_embed"] = torch.cat([of_class, state["pos_embed"]], dim=1)
    return state


def tiny_vit(image_size: int = 64) -> VisionTransformer:
    return VisionTransformer(
        img_size=image_size,
        patch_size=8,
        embed_dim=96,
        depth=3,
        num_heads=3,
        class_token=False,
        global_pool="",
        num_classes=0,
    )


@torch.no_grad()
def tokens_before_norm(vit: VisionTransformer, image: Tensor) -> Tensor:
    return vit.blocks(vit.norm_pre(vit._pos_embed(vit.patch_embed(image))))


@torch.no_grad()
def global_tokens(surrogate: Surrogate, image: Tensor) -> Tensor:
    """Tokens after the last block, every block attending globally, relative positions zero."""
    encoder = surrogate.image_encoder
    for block in encoder.blocks:
        block.window_size = 0
        for table in (block.attn.rel_pos_h, block.attn.rel_pos_w):
            assert not table.any(), "the conversion must leave fresh relative positions at zero"
    return encoder.forward_tokens(image)[0].flatten(1, 2)


def bicubic_matrix(found: int, wanted: int, a: float = -0.75) -> np.ndarray:
    """(wanted, found) weights of cubic convolution between pixel centres, borders repeated."""
    matrix = np.zeros((wanted, found))
    for row in range(wanted):
        centre = (row + 0.5) * found / wanted - 0.5
        first = int(np.floor(centre)) - 1
        for column in range(first, first + 4):
            t = abs(centre - column)
            near = (a + 2) * t**3 - (a + 3) * t**2 + 1
            far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
            matrix[row, min(max(column, 0), found - 1)] += near if t <= 1 else far
    return matrix


@pytest.mark.parametrize("wrapped", [True, False])
def test_tokens_equal_timms_at_tiny_and_the_report_names_every_tensor(
    tmp_path: Path, wrapped: bool
) -> None:
    vit, path = tiny_vit(), tmp_path / "mae.pth"
    state = {**random_vit(vit), **{name: torch.ones(shape) for name, shape in DECODER.items()}}
    torch.save({"model": state} if wrapped else state, path)
    surrogate = build_surrogate("tiny", 64)
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    report = load_mae(surrogate, path)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    # A tiny grid of 8 has tables of 15 rows: those of the windowed block fit the window only.
    surrogate.image_encoder.blocks[0].attn.rel_pos_h = torch.nn.Parameter(torch.zeros(15, 32))
    surrogate.image_encoder.blocks[0].attn.rel_pos_w = torch.nn.Parameter(torch.zeros(15, 32))
    torch.testing.assert_close(
        global_tokens(surrogate, image), tokens_before_norm(vit, image), rtol=0, atol=1e-5
    )
    assert set(report.unused) == {"cls_token", "norm.weight", "norm.bias", *DECODER}
    assert report.resampled == ()
    assert set(report.taken) | set(report.fresh) == set(before)
    assert len(report.taken) == 3 + 3 * 12
    encoder_fresh = {name for name in report.fresh if name.startswith("image_encoder.")}
    assert encoder_fresh == {n for n in before if ".rel_pos_" in n or "image_encoder.neck." in n}
    for name in report.fresh:
        if ".blocks.0.attn.rel_pos_" not in name:
            assert torch.equal(surrogate.state_dict()[name], before[name]), name


def test_tokens_equal_timms_vit_b_16(tmp_path: Path) -> None:
    # "skip" spares timm's slow initialisation: `random_vit` fills every tensor.
    vit = timm.create_model(
        "vit_base_patch16_224",
        class_token=False,
        global_pool="",
        num_classes=0,
        weight_init="skip",
    ).eval()
    path = tmp_path / "mae_pretrain_vit_base.pth"
    torch.save({"model": random_vit(vit)}, path)
    surrogate = build_surrogate("vit_b", 224)  # 14 tokens per side, as many as a window has
    report = load_mae(surrogate, path)
    assert report.resampled == ()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    wanted = tokens_before_norm(vit, image)
    found = global_tokens(surrogate, image)
    assert wanted.std() > 0.1
    difference = (found - wanted).abs()
    assert difference.max() <= 1e-5, f"max {difference.max():.2e}, mean {difference.mean():.2e}"


def test_another_grid_resamples_the_positions_bicubically_without_the_class_token(
    tmp_path: Path,
) -> None:
    vit, path = tiny_vit(112), tmp_path / "mae.pth"  # 14 x 14, as in Meta's file
    state = random_vit(vit)
    torch.save({"model": state}, path)
    surrogate = build_surrogate("tiny", 256)  # 32 x 32, as in the paper's surrogate
    report = load_mae(surrogate, path)
    assert [tuple(entry) for entry in report.resampled] == [
        ("image_encoder.pos_embed", (1, 14, 14, 96), (1, 32, 32, 96))
    ]
    matrix = bicubic_matrix(14, 32)
    grid = state["pos_embed"][0, 1:].numpy().reshape(14, 14, 96)
    wanted = np.einsum("ih,jw,hwc->ijc", matrix, matrix, grid)
    found = surrogate.image_encoder.pos_embed.detach()[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "image_encoder."])
def test_a_file_in_segment_anythings_names_loads_and_its_relative_positions_are_taken(
    tmp_path: Path, prefix: str
) -> None:
    source, path = build_surrogate("tiny", 64), tmp_path / "modified_mae.pth"
    with torch.no_grad():
        for value in source.image_encoder.state_dict().values():
            value.add_(0.02 * torch.randn(value.shape))
    state = source.image_encoder.state_dict()
    torch.save({"model": {prefix + name: value for name, value in state.items()}}, path)
    same = build_surrogate("tiny", 64)
    report = load_mae(same, path)
    assert len(report.taken) == len(state)
    assert all(torch.equal(same.image_encoder.state_dict()[n], v) for n, v in state.items())
    larger = build_surrogate("tiny", 96)
    assert {entry.name for entry in load_mae(larger, path).resampled} == {
        "image_encoder.pos_embed",
        *(f"image_encoder.blocks.{i}.attn.rel_pos_{axis}" for i in (1, 2) for axis in "hw"),
    }
    table = larger.image_encoder.blocks[1].attn.rel_pos_h
    wanted = get_rel_pos(12, 12, state["blocks.1.attn.rel_pos_h"])
    assert torch.equal(get_rel_pos(12, 12, table), wanted)


def test_our_own_pretraining_file_loads_and_a_converted_file_gives_the_same_encoder(
    tmp_path: Path,
) -> None:
    meta, converted = tmp_path / "mae.pth", tmp_path / "encoder.pth"
    torch.save({"model": random_vit(tiny_vit())}, meta)
    save_mae(read_mae(meta).state, converted, image_size=96)
    assert torch.load(converted, weights_only=True)["format"] == "unseg-mae"
    direct, through = build_surrogate("tiny", 96), build_surrogate("tiny", 96)
    assert len(load_mae(direct, meta).resampled) == 1
    assert load_mae(through, converted).resampled == ()
    for name, value in direct.image_encoder.state_dict().items():
        if ".rel_pos_" not in name and not name.startswith("neck."):
            assert torch.equal(through.image_encoder.state_dict()[name], value), name


def test_mae_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mae.pth"
    state = random_vit(tiny_vit())
    surrogate = build_surrogate("tiny", 64)

    def refused(changed: dict[str, Tensor], message: str) -> None:
        torch.save(changed, path)
        with pytest.raises(UserError, match=message) as caught:
            load_mae(surrogate, path)
        assert str(caught.value).startswith(str(path))

    refused({n: v for n, v in state.items() if n != "blocks.2.mlp.fc1.bias"}, "1 tensor is missing")
    refused({n: v for n, v in state.items() if n != "pos_embed"}, "image_encoder.pos_embed")
    refused({**state, "blocks.0.ls1.gamma": torch.ones(96)}, "1 tensor is unexpected")
    refused({**state, "pos_embed": torch.ones(1, 60, 96)}, "no square grid")
    torch.save(state, path)
    with pytest.raises(UserError, match="wrong model size.*tiny.*size='tiny'"):
        load_mae(build_surrogate("small", 64), path)
    with pytest.raises(UserError, match="surrogate is 'resnet50'; leave them out"):
        load_mae(build_surrogate("resnet50", 64), path)
