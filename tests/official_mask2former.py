"""Mask2Former as its official files have it: names and shapes, and random numbers for them.

Written from the architecture, without transformers and without the table of names under test: files
made here can tell whether that table gives the same network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """Numbers of one network; those of the defaults are the official ones."""

    stages: tuple[int, ...]
    hidden: int = 256
    heads: int = 8
    encoder_layers: int = 6
    encoder_ffn: int = 1024
    decoder_layers: int = 9
    decoder_ffn: int = 2048
    queries: int = 100
    classes: int = 133


def linear(name: str, into: int, out: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def frozen_convolution(name: str, into: int, out: int, side: int) -> Shapes:
    """Detectron2's convolution with its FrozenBatchNorm, which counts no batches."""
    shapes: Shapes = {f"{name}.weight": (out, into, side, side)}
    parts = ("weight", "bias", "running_mean", "running_var")
    return shapes | {f"{name}.norm.{part}": (out,) for part in parts}


def resnet_shapes(stem: int, stages: Sequence[int], depths: Sequence[int], basic: bool) -> Shapes:
    shapes = frozen_convolution("backbone.stem.conv1", 3, stem, 7)
    into = stem
    for stage, (out, depth) in enumerate(zip(stages, depths, strict=True)):
        for block in range(depth):
            name = f"backbone.res{stage + 2}.{block}"
            if block == 0:
                shapes |= frozen_convolution(f"{name}.shortcut", into, out, 1)
            plan = [(into, out, 3), (out, out, 3)]
            if not basic:
                inner = out // 4
                plan = [(into, inner, 1), (inner, inner, 3), (inner, out, 1)]
            for index, (a, b, side) in enumerate(plan):
                shapes |= frozen_convolution(f"{name}.conv{index + 1}", a, b, side)
            into = out
    return shapes


def swin_shapes(
    stages: Sequence[int], depths: Sequence[int], heads: Sequence[int], window: int
) -> Shapes:
    found: list[tuple[str, tuple[int, ...]]] = [
        ("backbone.patch_embed.proj.weight", (stages[0], 3, 4, 4)),
        ("backbone.patch_embed.proj.bias", (stages[0],)),
        *norm("backbone.patch_embed.norm", stages[0]),
    ]
    for stage, (width, depth) in enumerate(zip(stages, depths, strict=True)):
        for block in range(depth):
            name = f"backbone.layers.{stage}.blocks.{block}"
            table = ((2 * window - 1) ** 2, heads[stage])
            found += [
                *norm(f"{name}.norm1", width),
                (f"{name}.attn.relative_position_bias_table", table),
                (f"{name}.attn.relative_position_index", (window**2, window**2)),
                *linear(f"{name}.attn.qkv", width, 3 * width),
                *linear(f"{name}.attn.proj", width, width),
                *norm(f"{name}.norm2", width),
                *linear(f"{name}.mlp.fc1", width, 4 * width),
                *linear(f"{name}.mlp.fc2", 4 * width, width),
            ]
        if stage < len(stages) - 1:
            down = f"backbone.layers.{stage}.downsample"
            found.append((f"{down}.reduction.weight", (2 * width, 4 * width)))
            found += norm(f"{down}.norm", 4 * width)
        found += norm(f"backbone.norm{stage}", width)
    return dict(found)


def head_shapes(size: Size) -> Shapes:
    """Pixel decoder, predictor and the loss's class weights."""
    c, points = size.hidden, size.heads * 3 * 4
    pixels, queries = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
    found: list[tuple[str, tuple[int, ...]]] = [(f"{pixels}.transformer.level_embed", (3, c))]
    for level, width in enumerate(reversed(size.stages[1:])):
        found.append((f"{pixels}.input_proj.{level}.0.weight", (c, width, 1, 1)))
        found.append((f"{pixels}.input_proj.{level}.0.bias", (c,)))
        found += norm(f"{pixels}.input_proj.{level}.1", c)
    for i in range(size.encoder_layers):
        name = f"{pixels}.transformer.encoder.layers.{i}"
        found += [
            *linear(f"{name}.self_attn.sampling_offsets", c, 2 * points),
            *linear(f"{name}.self_attn.attention_weights", c, points),
            *linear(f"{name}.self_attn.value_proj", c, c),
            *linear(f"{name}.self_attn.output_proj", c, c),
            *norm(f"{name}.norm1", c),
            *linear(f"{name}.linear1", c, size.encoder_ffn),
            *linear(f"{name}.linear2", size.encoder_ffn, c),
            *norm(f"{name}.norm2", c),
        ]
    found.append((f"{pixels}.mask_features.weight", (c, c, 1, 1)))
    found.append((f"{pixels}.mask_features.bias", (c,)))
    found.append((f"{pixels}.adapter_1.weight", (c, size.stages[0], 1, 1)))
    found += norm(f"{pixels}.adapter_1.norm", c)
    found.append((f"{pixels}.layer_1.weight", (c, c, 3, 3)))
    found += norm(f"{pixels}.layer_1.norm", c)
    for i in range(size.decoder_layers):
        for kind, inner in (("self", "self_attn"), ("cross", "multihead_attn")):
            name = f"{queries}.transformer_{kind}_attention_layers.{i}"
            found.append((f"{name}.{inner}.in_proj_weight", (3 * c, c)))
            found.append((f"{name}.{inner}.in_proj_bias", (3 * c,)))
            found += linear(f"{name}.{inner}.out_proj", c, c)
            found += norm(f"{name}.norm", c)
        name = f"{queries}.transformer_ffn_layers.{i}"
        found += linear(f"{name}.linear1", c, size.decoder_ffn)
        found += linear(f"{name}.linear2", size.decoder_ffn, c)
        found += norm(f"{name}.norm", c)
    found += norm(f"{queries}.decoder_norm", c)
    found += [
        (f"{queries}.{part}.weight", (size.queries, c)) for part in ("query_feat", "query_embed")
    ]
    found.append((f"{queries}.level_embed.weight", (3, c)))
    found += linear(f"{queries}.class_embed", c, size.classes + 1)
    for i in range(3):
        found += linear(f"{queries}.mask_embed.layers.{i}", c, c)
    found.append(("criterion.empty_weight", (size.classes + 1,)))
    return dict(found)


def random_state(shapes: Shapes, window: int = 4) -> dict[str, Tensor]:
    """Numbers that let every tensor count: no bias is zero, no normalisation the identity."""
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, dtype=torch.float64)
        if name.endswith("relative_position_index"):
            value = position_index(window)
        elif name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) == 1 and name.endswith("weight"):
            value = 1 + 0.3 * value
        elif len(shape) > 1 and "embed" not in name and "table" not in name:
            value = value / math.sqrt(math.prod(shape[1:]))
        state[name] = value
    return state


def position_index(window: int) -> Tensor:
    """Row of the table of biases for each pair of pixels of a window, counted pair by pair."""
    cells = [(y, x) for y in range(window) for x in range(window)]
    rows = [
        [(a - c + window - 1) * (2 * window - 1) + (b - d + window - 1) for c, d in cells]
        for a, b in cells
    ]
    return torch.tensor(rows)
