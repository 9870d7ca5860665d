"""What an official Mask2Former file computes, as a plain function of its tensors, for one picture.

After the papers of ResNet, Swin, Deformable-DETR and Mask2Former; slow. Names and sizes are
those of `official_mask2former`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from official_mask2former import Size
from torch import Tensor, nn

State = Mapping[str, Tensor]


def _part(state: State, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _group_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"])


def _frozen(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolution, then (x - mean) / sqrt(variance + 1e-5) * weight + bias by constants."""
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    scale, shift, mean, var = (
        state[f"{name}.norm.{part}"].view(-1, 1, 1)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def resnet(state: State, x: Tensor) -> list[Tensor]:
    """Stages of a ResNet of one basic or bottleneck block each; the first 3 x 3 strides."""
    x = F.max_pool2d(_frozen(state, "backbone.stem.conv1", x, 2).relu(), 3, 2, 1)
    found = []
    for stage in range(2, 6):
        name, stride = f"backbone.res{stage}.0", 1 if stage == 2 else 2
        names = [f"{name}.conv{i}" for i in (1, 2, 3) if f"{name}.conv{i}.weight" in state]
        strided = next(n for n in names if state[f"{n}.weight"].shape[-1] == 3)
        y = x
        for conv in names:
            y = _frozen(state, conv, y, stride if conv == strided else 1)
            y = y if conv == names[-1] else y.relu()
        x = (y + _frozen(state, f"{name}.shortcut", x, stride)).relu()
        found.append(x)
    return found


def swin(state: State, x: Tensor, heads: Sequence[int], window: int = 4) -> list[Tensor]:
    """Stages of a Swin of unshifted blocks whose windows fill each map."""
    patches = F.conv2d(
        x, state["backbone.patch_embed.proj.weight"], state["backbone.patch_embed.proj.bias"], 4
    )
    x = _norm(state, "backbone.patch_embed.norm", patches.permute(0, 2, 3, 1))
    found = []
    for stage, head_count in enumerate(heads):
        name = f"backbone.layers.{stage}.blocks.0"
        x = x + _windows(
            state, f"{name}.attn", _norm(state, f"{name}.norm1", x), head_count, window
        )
        y = F.gelu(_linear(state, f"{name}.mlp.fc1", _norm(state, f"{name}.norm2", x)))
        x = x + _linear(state, f"{name}.mlp.fc2", y)
        found.append(_norm(state, f"backbone.norm{stage}", x).permute(0, 3, 1, 2))
        if stage < len(heads) - 1:
            # The four pixels of a square follow each other down the columns.
            square = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
            down = f"backbone.layers.{stage}.downsample"
            x = _linear(
                state, f"{down}.reduction", _norm(state, f"{down}.norm", torch.cat(square, -1))
            )
    return found


def _windows(state: State, name: str, x: Tensor, heads: int, window: int) -> Tensor:
    _, height, width, channels = x.shape
    table = state[f"{name}.relative_position_bias_table"]
    bias = table[state[f"{name}.relative_position_index"]].permute(2, 0, 1)
    result = torch.empty_like(x)
    for top in range(0, height, window):
        for left in range(0, width, window):
            rows, columns = slice(top, top + window), slice(left, left + window)
            tokens = x[:, rows, columns].flatten(1, 2)
            q, k, v = (
                part.unflatten(-1, (heads, -1)).transpose(1, 2)
                for part in _linear(state, f"{name}.qkv", tokens).split(channels, -1)
            )
            weights = (q @ k.transpose(-1, -2) / math.sqrt(channels // heads) + bias).softmax(-1)
            answer = _linear(state, f"{name}.proj", (weights @ v).transpose(1, 2).flatten(2))
            result[:, rows, columns] = answer.unflatten(1, (window, window))
    return result


def sine_positions(height: int, width: int, channels: int) -> Tensor:
    """Rows' sines and cosines, then columns' (H * W, channels)."""
    half = channels // 2
    rates = 10_000.0 ** (-2 * (torch.arange(half, dtype=torch.float64) // 2) / half)

    def wave(count: int) -> Tensor:
        at = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1e-6) * 2 * math.pi
        angle = at[:, None] * rates
        return torch.where(torch.arange(half) % 2 == 0, angle.sin(), angle.cos())

    rows = wave(height)[:, None].expand(height, width, half)
    return torch.cat([rows, wave(width)[None].expand(height, width, half)], -1).flatten(0, 1)


def pixel_decoder(
    state: State, stages: Sequence[Tensor], size: Size
) -> tuple[list[Tensor], Tensor]:
    """Maps of the three coarse levels, coarsest first, and the features of masks; one picture."""
    own = _part(state, "sem_seg_head.pixel_decoder.")
    tokens, positions, sides = [], [], []
    for level, x in enumerate(reversed(stages[1:])):
        name = f"input_proj.{level}"
        x = F.conv2d(x, own[f"{name}.0.weight"], own[f"{name}.0.bias"])
        sides.append((x.shape[2], x.shape[3]))
        tokens.append(_group_norm(own, f"{name}.1", x)[0].flatten(1).T)
        place = sine_positions(*sides[-1], size.hidden)
        positions.append(place + own["transformer.level_embed"][level])
    x, place = torch.cat(tokens), torch.cat(positions)
    for i in range(size.encoder_layers):
        name = f"transformer.encoder.layers.{i}"
        x = _norm(
            own, f"{name}.norm1", x + _deformable(own, f"{name}.self_attn", x, place, sides, size)
        )
        y = _linear(own, f"{name}.linear2", _linear(own, f"{name}.linear1", x).relu())
        x = _norm(own, f"{name}.norm2", x + y)
    counts = [h * w for h, w in sides]
    maps = [p.T.unflatten(1, s)[None] for p, s in zip(x.split(counts), sides, strict=True)]
    lateral = _group_norm(own, "adapter_1.norm", F.conv2d(stages[0], own["adapter_1.weight"]))
    up = F.interpolate(maps[-1], lateral.shape[-2:], mode="bilinear", align_corners=False)
    fine = F.conv2d(lateral + up, own["layer_1.weight"], padding=1)
    fine = _group_norm(own, "layer_1.norm", fine).relu()
    return maps, F.conv2d(fine, own["mask_features.weight"], own["mask_features.bias"])


def _deformable(
    own: State, name: str, x: Tensor, place: Tensor, sides: Sequence[tuple[int, int]], size: Size
) -> Tensor:
    """Each token of (N, C) looks at four points of each level, around its own place."""
    query, heads = x + place, size.heads
    values = _linear(own, f"{name}.value_proj", x).split([h * w for h, w in sides])
    offsets = _linear(own, f"{name}.sampling_offsets", query).view(-1, heads, 3, 4, 2)
    weights = _linear(own, f"{name}.attention_weights", query).view(-1, heads, 12)
    weights = weights.softmax(-1).view(-1, heads, 3, 4)
    centres = torch.tensor(
        [((c + 0.5) / w, (r + 0.5) / h) for h, w in sides for r in range(h) for c in range(w)],
        dtype=x.dtype,
    )
    seen = x.new_zeros(heads, x.shape[1] // heads, len(x))
    for level, (height, width) in enumerate(sides):
        value = values[level].T.reshape(heads, -1, height, width)
        at = centres[:, None, None] + offsets[:, :, level] / x.new_tensor([width, height])
        points = F.grid_sample(value, 2 * at.transpose(0, 1) - 1, align_corners=False)
        seen = seen + (points * weights[:, :, level].transpose(0, 1)[:, None]).sum(-1)
    return _linear(own, f"{name}.output_proj", seen.flatten(0, 1).T)


def predictor(
    state: State, maps: Sequence[Tensor], features: Tensor, size: Size
) -> tuple[Tensor, Tensor]:
    """Logits (Q, C + 1) of the queries' classes and (Q, h, w) of their masks; one picture."""
    own = _part(state, "sem_seg_head.predictor.")
    levels = [x[0].flatten(1).T + own["level_embed.weight"][level] for level, x in enumerate(maps)]
    x, place = own["query_feat.weight"], own["query_embed.weight"]
    classes, masks = _predict(own, x, features)
    for i in range(size.decoder_layers):
        level = i % 3
        sides = (maps[level].shape[2], maps[level].shape[3])
        where = F.interpolate(masks[None], sides, mode="bilinear", align_corners=False)[0]
        is_hidden = where.flatten(1) < 0
        is_hidden = is_hidden & ~is_hidden.all(1, keepdim=True)
        keys = levels[level] + sine_positions(*sides, size.hidden)
        name = f"transformer_cross_attention_layers.{i}"
        seen = _attend(
            own, f"{name}.multihead_attn", x + place, keys, levels[level], size, is_hidden
        )
        x = _norm(own, f"{name}.norm", x + seen)
        name = f"transformer_self_attention_layers.{i}"
        x = _norm(
            own,
            f"{name}.norm",
            x + _attend(own, f"{name}.self_attn", x + place, x + place, x, size),
        )
        name = f"transformer_ffn_layers.{i}"
        y = _linear(own, f"{name}.linear2", _linear(own, f"{name}.linear1", x).relu())
        x = _norm(own, f"{name}.norm", x + y)
        classes, masks = _predict(own, x, features)
    return classes, masks


def _attend(
    own: State, name: str, query: Tensor, key: Tensor, value: Tensor, size: Size,
    is_hidden: Tensor | None = None,
) -> Tensor:  # fmt: skip
    attention = nn.MultiheadAttention(size.hidden, size.heads, dtype=query.dtype)
    attention.load_state_dict(_part(own, f"{name}."))
    return attention(query, key, value, attn_mask=is_hidden, need_weights=False)[0]


def _predict(own: State, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    x = _norm(own, "decoder_norm", x)
    kernel = _linear(own, "mask_embed.layers.0", x).relu()
    kernel = _linear(own, "mask_embed.layers.1", kernel).relu()
    kernel = _linear(own, "mask_embed.layers.2", kernel)
    return _linear(own, "class_embed", x), torch.einsum("qc,chw->qhw", kernel, features[0])
