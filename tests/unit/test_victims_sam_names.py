"""Official files of Segment Anything and SAM-HQ give the victim the same function."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import nn

from unseg.utils.errors import UserError
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.sam_hq import NEW_PARTS, SamHQ
from unseg.victims.networks.sam_hq_names import own_name

SIDE, PATCH, WIDTH = 64, 8, 32


def branch(
    source: int, hidden: int, target: int, *, layer: type[nn.Module], side: int
) -> nn.Module:
    """One of the three branches of SAM-HQ, with the official file's numbers of layers."""
    extra = {"stride": 2} if side == 2 else {"padding": 1}
    return nn.Sequential(
        layer(source, hidden, side, **extra),
        LayerNorm2d(hidden),
        nn.GELU(),
        layer(hidden, target, side, **extra),
    )


class OfficialSamHQ(nn.Module):
    """Segment Anything's own modules and what SAM-HQ adds, at the size of the tiny victim."""

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = ImageEncoderViT(
            img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=2, out_chans=WIDTH,
            use_rel_pos=True, window_size=4, global_attn_indexes=(0, 1),
            norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6),
        )  # fmt: skip
        grid = (SIDE // PATCH, SIDE // PATCH)
        self.prompt_encoder = PromptEncoder(WIDTH, grid, (SIDE, SIDE), 16)
        decoder = MaskDecoder(
            transformer_dim=WIDTH,
            transformer=TwoWayTransformer(2, WIDTH, 2, 2 * WIDTH),
            iou_head_hidden_dim=WIDTH,
        )
        up, conv, fine = nn.ConvTranspose2d, nn.Conv2d, WIDTH // 8
        decoder.hf_token = nn.Embedding(1, WIDTH)
        decoder.hf_mlp = MLP(WIDTH, WIDTH, fine, 3)
        decoder.compress_vit_feat = branch(WIDTH, WIDTH, fine, layer=up, side=2)
        decoder.embedding_encoder = branch(WIDTH, WIDTH // 4, fine, layer=up, side=2)
        decoder.embedding_maskfeature = branch(fine, WIDTH // 4, fine, layer=conv, side=3)
        self.mask_decoder = decoder

    def forward(self, image: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
        """Logits (1, h, w) of the high-quality mask for a box (1, 4), as the paper describes it."""
        early = []
        hook = self.image_encoder.blocks[0].register_forward_hook(lambda *a: early.append(a[-1]))
        picture = self.image_encoder(image)
        hook.remove()
        sparse, dense = self.prompt_encoder(points=None, boxes=box, masks=None)
        decoder = self.mask_decoder
        tokens = [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight]
        answers, seen = decoder.transformer(
            picture + dense,
            self.prompt_encoder.get_dense_pe(),
            torch.cat([torch.cat(tokens)[None], sparse], 1),
        )
        fine = decoder.output_upscaling(seen.transpose(1, 2).reshape(picture.shape))
        fine = decoder.embedding_maskfeature(fine) + decoder.embedding_encoder(picture)
        fine = fine + decoder.compress_vit_feat(early[0].permute(0, 3, 1, 2))
        return (decoder.hf_mlp(answers[:, 5])[:, :, None, None] * fine).sum(1)


def official() -> OfficialSamHQ:
    torch.manual_seed(0)
    sam = OfficialSamHQ().eval()
    for parameter in sam.parameters():  # positions and relative positions start at zero
        nn.init.normal_(parameter, std=0.4)
    return sam


def victim_from(path: Path, state: dict[str, torch.Tensor]) -> SamHQ:
    torch.save(state, path)
    victim = build_victim(
        "sam_hq_vit_b", num_classes=1, tiny=True, image_size=SIDE, weights="path", weights_path=path
    )
    assert isinstance(victim, SamHQ)
    return victim.eval()


def test_sam_hq_answers_alike_under_both_names(tmp_path: Path) -> None:
    sam = official()
    victim = victim_from(tmp_path / "sam_hq.pth", sam.state_dict())
    images = torch.randn(2, 3, SIDE, SIDE)
    boxes = torch.tensor([[[8.0, 10, 40, 50], [2, 30, 60, 34]], [[0, 0, 63, 9], [20, 20, 30, 60]]])
    with torch.no_grad():
        found = victim._masks(images, boxes)
        for image, own, masks in zip(images, boxes, found, strict=True):
            expected = torch.cat([sam(image[None], box[None]) for box in own])
            assert expected.std() > 0.1
            torch.testing.assert_close(masks, expected, rtol=1e-4, atol=1e-4)
            assert (masks[0] - masks[1]).abs().max() > 0.1


def test_what_sam_hq_adds_stays_fresh_where_a_file_lacks_all_of_it(tmp_path: Path) -> None:
    full = official().state_dict()
    added = ("hf_", "compress_vit_feat", "embedding_")
    state = {k: v for k, v in full.items() if not any(f"decoder.{word}" in k for word in added)}
    victim = victim_from(tmp_path / "sam.pth", state)
    own = victim.network.state_dict()
    new = {name for name in own if any(part in name for part in NEW_PARTS)}
    assert new == {own_name(name) for name in full.keys() - state.keys()}
    for name, value in full.items():
        if "positional_encoding" not in name:
            assert torch.equal(own[own_name(name)], value) == (name in state), name


def test_a_file_that_lacks_a_part_of_segment_anything_is_refused(tmp_path: Path) -> None:
    state = official().state_dict()
    del state["image_encoder.neck.0.weight"]
    with pytest.raises(UserError, match=r"1 keys missing, first vision_encoder\.neck\.conv1"):
        victim_from(tmp_path / "sam.pth", state)
