"""Names of Mask2Former's official files (detectron2) as transformers' Mask2Former has them.

Semantic, instance and panoptic files have the same names. What differs besides: the projections
for queries, keys and values are one tensor there and three here, the official ResNet normalises by
constants (no count of batches), and the official Swin has no norm behind its last stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

_RESNET = (
    (r"embedder\.embedder\.convolution\.", "stem.conv1."),
    (r"embedder\.embedder\.normalization\.", "stem.conv1.norm."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.convolution\.",
     lambda m: f"res{int(m[1]) + 2}.{m[2]}.shortcut."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.normalization\.",
     lambda m: f"res{int(m[1]) + 2}.{m[2]}.shortcut.norm."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.convolution\.",
     lambda m: f"res{int(m[1]) + 2}.{m[2]}.conv{int(m[3]) + 1}."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.normalization\.",
     lambda m: f"res{int(m[1]) + 2}.{m[2]}.conv{int(m[3]) + 1}.norm."),
)  # fmt: skip

_SWIN = (
    (r"swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"swin\.embeddings\.norm\.", "patch_embed.norm."),
    (r"swin\.encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.[qkv]_proj\.", r"\1.attn.qkv."),
    (r"swin\.encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.o_proj\.", r"\1.attn.proj."),
    (r"swin\.encoder\.(layers\.\d+\.blocks\.\d+)\.attention\.relative_position_bias\.",
     r"\1.attn."),
    (r"swin\.encoder\.(layers\.\d+\.blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
    (r"swin\.encoder\.(layers\.\d+\.blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
    (r"swin\.encoder\.(layers\.\d+\.blocks\.\d+\.mlp)\.", r"\1."),
    (r"swin\.encoder\.(layers\.\d+\.downsample)\.", r"\1."),
    (r"swin\.layernorm\.", "norm."),
    (r"hidden_states_norms\.stage(\d+)\.", lambda m: f"norm{int(m[1]) - 1}."),
)  # fmt: skip

_PIXEL_DECODER = (
    (r"level_embed$", "transformer.level_embed"),
    (r"input_projections\.", "input_proj."),
    (r"encoder\.(layers\.\d+)\.self_attn\.", r"transformer.encoder.\1.self_attn."),
    (r"encoder\.(layers\.\d+)\.self_attn_layer_norm\.", r"transformer.encoder.\1.norm1."),
    (r"encoder\.(layers\.\d+)\.fc([12])\.", r"transformer.encoder.\1.linear\2."),
    (r"encoder\.(layers\.\d+)\.final_layer_norm\.", r"transformer.encoder.\1.norm2."),
    (r"((?:adapter|layer)_\d+)\.0\.", r"\1."),
    (r"((?:adapter|layer)_\d+)\.1\.", r"\1.norm."),
    (r"mask_projection\.", "mask_features."),
)

_PREDICTOR = (
    (r"queries_features\.", "query_feat."),
    (r"queries_embedder\.", "query_embed."),
    (r"level_embed\.", "level_embed."),
    (r"input_projections\.", "input_proj."),
    (r"decoder\.layers\.(\d+)\.cross_attn\.",
     r"transformer_cross_attention_layers.\1.multihead_attn."),
    (r"decoder\.layers\.(\d+)\.cross_attn_layer_norm\.",
     r"transformer_cross_attention_layers.\1.norm."),
    (r"decoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.",
     r"transformer_self_attention_layers.\1.self_attn.in_proj_"),
    (r"decoder\.layers\.(\d+)\.self_attn\.out_proj\.",
     r"transformer_self_attention_layers.\1.self_attn.out_proj."),
    (r"decoder\.layers\.(\d+)\.self_attn_layer_norm\.",
     r"transformer_self_attention_layers.\1.norm."),
    (r"decoder\.layers\.(\d+)\.fc([12])\.", r"transformer_ffn_layers.\1.linear\2."),
    (r"decoder\.layers\.(\d+)\.final_layer_norm\.", r"transformer_ffn_layers.\1.norm."),
    (r"decoder\.layernorm\.", "decoder_norm."),
    (r"decoder\.mask_predictor\.mask_embedder\.(\d+)\.0\.", r"mask_embed.layers.\1."),
)  # fmt: skip

_Rules = Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]
_PARTS: tuple[tuple[str, str, _Rules], ...] = (
    ("model.pixel_level_module.encoder.", "backbone.", (*_RESNET, *_SWIN)),
    ("model.pixel_level_module.decoder.", "sem_seg_head.pixel_decoder.", _PIXEL_DECODER),
    ("model.transformer_module.", "sem_seg_head.predictor.", _PREDICTOR),
    ("class_predictor.", "sem_seg_head.predictor.", ((r"", "class_embed."),)),
    ("criterion.", "criterion.", ((r"", ""),)),
)

_THIRDS = re.compile(r"\.([qkv])_proj\.")
"""Queries, keys and values lie in this order in the official tensors, by rows."""

_MAY_BE_ABSENT = re.compile(r"num_batches_tracked$|^backbone\.norm\.|^criterion\.empty_weight$")
"""Without influence on an answer, or constants of the loss: the network keeps its own."""

_DERIVED = re.compile(r"\.relative_position_index$|^pixel_(mean|std)$")
"""Follow from the window's side, or are the normalisation of ImageNet, which a victim has too."""


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the official names."""
    return any(name.startswith("sem_seg_head.predictor.") for name in state)


def official_name(name: str) -> tuple[str, int | None]:
    """Where the official file has one tensor of transformers' Mask2Former.

    Returns:
        The official name, and which third of its rows (0, 1 or 2) where it is a fused one.

    Raises:
        ValueError: a name that this module does not know.
    """
    for prefix, official, rules in _PARTS:
        rest = name.removeprefix(prefix)
        if rest == name:
            continue
        for pattern, replacement in rules:
            renamed_rest, count = re.subn(rf"^{pattern}", replacement, rest, count=1)
            if count:
                third = _THIRDS.search(rest)
                return official + renamed_rest, "qkv".index(third[1]) if third else None
    raise ValueError(
        f"the Mask2Former of this version of transformers has a tensor {name}, for which no "
        "official name is known; official files load with transformers 5.23"
    )


def renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of an official file, under the names of the network that they are for.

    Args:
        state: the file's tensors.
        own: the network's state.

    Raises:
        ValueError: a tensor is missing, superfluous or of another shape; all of them are counted,
            the first of each kind is named.
    """
    source = {_present_name(name): value for name, value in state.items()}
    used, missing, misshapen, found = set(), [], [], {}
    for name, value in own.items():
        official, third = official_name(name)
        if official not in source:
            found[name] = value
            if not _MAY_BE_ABSENT.search(official):
                missing.append(official)
            continue
        used.add(official)
        tensor, wanted = source[official], list(value.shape)
        if third is not None:
            wanted[0] *= 3
        if list(tensor.shape) != wanted:
            misshapen.append(f"{official} ({list(tensor.shape)} in the file, {wanted} needed)")
            continue
        found[name] = tensor if third is None else tensor.chunk(3)[third]
    superfluous = [n for n in source if n not in used and not _DERIVED.search(n)]
    faults = {"missing": missing, "not known": superfluous, "of another shape": misshapen}
    named = [
        f"{len(unique)} {what}, first {unique[0]}"
        for what, names in faults.items()
        if (unique := list(dict.fromkeys(names)))
    ]
    if named:
        raise ValueError(
            f"an official Mask2Former file that does not fit ({'; '.join(named)}); choose the "
            "backbone and the number of classes that it was trained with"
        )
    return found


def _present_name(name: str) -> str:
    """Older files say `static_query`, and lack `pixel_decoder` between the head and its parts."""
    name = name.replace(".predictor.static_query.", ".predictor.query_feat.")
    return re.sub(r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)", r"\g<0>pixel_decoder.", name)
