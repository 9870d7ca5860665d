"""Names of Segment Anything's and SAM-HQ's official files as transformers' SAM-HQ has them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_MLP = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
_PARTS = {
    "image_encoder.neck": {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"},
    "prompt_encoder.mask_downscaling": {
        "0": "conv1", "1": "layer_norm1", "3": "conv2", "4": "layer_norm2", "6": "conv3"
    },
    "mask_decoder.output_upscaling": {
        "0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"
    },
    "mask_decoder.compress_vit_feat": {
        "0": "compress_vit_conv1", "1": "compress_vit_norm", "3": "compress_vit_conv2"
    },
    "mask_decoder.embedding_encoder": {
        "0": "encoder_conv1", "1": "encoder_norm", "3": "encoder_conv2"
    },
    "mask_decoder.embedding_maskfeature": {
        "0": "mask_conv1", "1": "mask_norm", "3": "mask_conv2"
    },
    "mask_decoder.iou_prediction_head.layers": _MLP,
    "mask_decoder.hf_mlp.layers": _MLP,
}  # fmt: skip
_PREFIXES = {
    "image_encoder.neck": "vision_encoder.neck.",
    "prompt_encoder.mask_downscaling": "prompt_encoder.mask_embed.",
    "mask_decoder.iou_prediction_head.layers": "mask_decoder.iou_prediction_head.",
    "mask_decoder.hf_mlp.layers": "mask_decoder.hq_mask_mlp.",
}
_PLAIN = (
    (r"^image_encoder\.patch_embed\.proj\.", "vision_encoder.patch_embed.projection."),
    (r"^image_encoder\.blocks\.(\d+)\.norm", r"vision_encoder.layers.\1.layer_norm"),
    (r"^image_encoder\.blocks\.", "vision_encoder.layers."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm",
     r"mask_decoder.transformer.layers.\1.layer_norm"),
    (r"^mask_decoder\.transformer\.norm_final", "mask_decoder.transformer.layer_norm_final"),
    (r"^mask_decoder\.hf_token\.", "mask_decoder.hq_token."),
)  # fmt: skip
_POSITIONS = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_HYPER = re.compile(r"^(mask_decoder\.output_hypernetworks_mlps\.\d+\.)layers\.(\d)\.")


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the official names."""
    return _POSITIONS in state and any(name.startswith("image_encoder.") for name in state)


def own_name(name: str) -> str:
    """The name of transformers for one official name."""
    hyper = _HYPER.match(name)
    if hyper:
        return hyper[1] + _MLP[hyper[2]] + name[hyper.end() - 1 :]
    for part, inner in _PARTS.items():
        if name.startswith(part + "."):
            number, _, rest = name[len(part) + 1 :].partition(".")
            return f"{_PREFIXES.get(part, 'mask_decoder.')}{inner.get(number, number)}.{rest}"
    for pattern, replacement in _PLAIN:
        renamed, count = re.subn(pattern, replacement, name)
        if count:
            return renamed
    return name


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors under transformers' names; the positional encoding stands there twice."""
    found = {own_name(name): value for name, value in state.items() if name != _POSITIONS}
    for name in ("shared_image_embedding", "prompt_encoder.shared_embedding"):
        found[f"{name}.positional_embedding"] = state[_POSITIONS]
    return found
