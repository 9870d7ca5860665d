"""Official files of Mask2Former give the victim the same function, completely or not at all."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_mask2former import Shapes, Size, head_shapes, random_state, resnet_shapes, swin_shapes
from official_mask2former_forward import pixel_decoder, predictor, resnet, swin
from torch import Tensor, nn

from unseg.utils.errors import UserError
from unseg.victims.networks.mask2former import build_mask2former
from unseg.victims.networks.mask2former_names import renamed
from unseg.victims.networks.registry import build_victim
from unseg.victims.networks.victim import Victim
from unseg.victims.networks.weights import load_weights, read_state_dict

TINY = {
    "hidden": 32, "heads": 2, "encoder_layers": 1, "encoder_ffn": 64, "decoder_layers": 2,
    "decoder_ffn": 64, "queries": 8, "classes": 3,
}  # fmt: skip
RESNET, SWIN = Size(stages=(16, 16, 24, 32), **TINY), Size(stages=(16, 32, 64, 128), **TINY)
SWIN_HEADS = (1, 1, 2, 2)


def tiny_shapes(backbone: str) -> Shapes:
    if backbone == "resnet50":
        return resnet_shapes(8, RESNET.stages, (1, 1, 1, 1), basic=True) | head_shapes(RESNET)
    return swin_shapes(SWIN.stages, (1, 1, 1, 1), SWIN_HEADS, window=4) | head_shapes(SWIN)


def tiny_file(backbone: str) -> dict[str, Tensor]:
    """An official file of the tiny victim."""
    torch.manual_seed(0)
    state = random_state(tiny_shapes(backbone))
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def victim_from(path: Path, backbone: str, state: dict[str, Tensor] | None = None) -> Victim:
    if state is not None:
        torch.save(state, path)
    return build_victim(
        f"mask2former_{backbone}", num_classes=3, tiny=True, weights="path", weights_path=path
    ).eval()


def same_tensors(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("backbone", ["resnet50", "swin_t"])
def test_mask2former_answers_as_its_official_file_says(tmp_path: Path, backbone: str) -> None:
    state = tiny_file(backbone)
    network: Any = victim_from(tmp_path / "model.pth", backbone, state).network.double()
    pixels = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    doubled = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    size = RESNET if backbone == "resnet50" else SWIN
    with torch.no_grad():
        output = network(pixel_values=pixels, output_hidden_states=True)
        stages = resnet(doubled, pixels) if size is RESNET else swin(doubled, pixels, SWIN_HEADS)
        maps, features = pixel_decoder(doubled, stages, size)
        classes, masks = predictor(doubled, maps, features, size)
    for found, expected in (
        *zip(output.encoder_hidden_states, stages, strict=True),
        (output.pixel_decoder_last_hidden_state, features),
        (output.class_queries_logits[0], classes),
        (output.masks_queries_logits[0], masks),
    ):
        assert expected.std() > 0.05
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_every_tensor_of_the_real_networks_is_filled_from_an_official_one_of_its_shape() -> None:
    resnet50 = Size(stages=(256, 512, 1024, 2048))
    swin_t = Size(stages=(96, 192, 384, 768))
    for backbone, shapes in {
        "resnet50": resnet_shapes(64, resnet50.stages, (3, 4, 6, 3), basic=False)
        | head_shapes(resnet50),
        "swin_t": swin_shapes(swin_t.stages, (2, 2, 6, 2), (3, 6, 12, 24), window=7)
        | head_shapes(swin_t),
    }.items():
        with torch.device("meta"):
            file = {name: torch.empty(shape) for name, shape in shapes.items()}
            own = build_mask2former(
                backbone, num_classes=133, tiny=False, width=1.0, pretrained=False
            ).state_dict()
        found = renamed(file, own)
        assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in own.items()}
        kept = {name for name, value in found.items() if value is own[name]}
        unused = r"num_batches_tracked$|encoder\.swin\.layernorm\.(weight|bias)$"
        assert all(re.search(unused, name) for name in kept), kept


ENCODER, DECODER = "model.pixel_level_module.encoder.", "model.pixel_level_module.decoder."
QUERIES = "model.transformer_module."
BLOCK = f"{ENCODER}encoder.stages.1.layers.0."
WINDOWS = f"{ENCODER}swin.encoder.layers.2.blocks.0."
PIXELS = f"{DECODER}encoder.layers.0."
LAYER = f"{QUERIES}decoder.layers.1."

BY_HAND = {
    "resnet50": {
        f"{ENCODER}embedder.embedder.convolution.weight": "backbone.stem.conv1.weight",
        f"{ENCODER}embedder.embedder.normalization.weight": "backbone.stem.conv1.norm.weight",
        f"{ENCODER}embedder.embedder.normalization.running_var":
            "backbone.stem.conv1.norm.running_var",
        f"{BLOCK}layer.0.convolution.weight": "backbone.res3.0.conv1.weight",
        f"{BLOCK}layer.1.convolution.weight": "backbone.res3.0.conv2.weight",
        f"{BLOCK}layer.1.normalization.bias": "backbone.res3.0.conv2.norm.bias",
        f"{BLOCK}layer.1.normalization.running_mean": "backbone.res3.0.conv2.norm.running_mean",
        f"{BLOCK}shortcut.convolution.weight": "backbone.res3.0.shortcut.weight",
        f"{BLOCK}shortcut.normalization.weight": "backbone.res3.0.shortcut.norm.weight",
    },
    "swin_t": {
        f"{ENCODER}swin.embeddings.patch_embeddings.projection.weight":
            "backbone.patch_embed.proj.weight",
        f"{ENCODER}swin.embeddings.norm.bias": "backbone.patch_embed.norm.bias",
        f"{WINDOWS}layernorm_before.weight": "backbone.layers.2.blocks.0.norm1.weight",
        f"{WINDOWS}layernorm_after.weight": "backbone.layers.2.blocks.0.norm2.weight",
        f"{WINDOWS}attention.q_proj.weight": "backbone.layers.2.blocks.0.attn.qkv.weight 0:64",
        f"{WINDOWS}attention.k_proj.weight": "backbone.layers.2.blocks.0.attn.qkv.weight 64:128",
        f"{WINDOWS}attention.v_proj.bias": "backbone.layers.2.blocks.0.attn.qkv.bias 128:192",
        f"{WINDOWS}attention.o_proj.weight": "backbone.layers.2.blocks.0.attn.proj.weight",
        f"{WINDOWS}attention.relative_position_bias.relative_position_bias_table":
            "backbone.layers.2.blocks.0.attn.relative_position_bias_table",
        f"{WINDOWS}mlp.fc1.weight": "backbone.layers.2.blocks.0.mlp.fc1.weight",
        f"{WINDOWS}mlp.fc2.bias": "backbone.layers.2.blocks.0.mlp.fc2.bias",
        f"{ENCODER}swin.encoder.layers.1.downsample.reduction.weight":
            "backbone.layers.1.downsample.reduction.weight",
        f"{ENCODER}swin.encoder.layers.1.downsample.norm.bias":
            "backbone.layers.1.downsample.norm.bias",
        f"{ENCODER}hidden_states_norms.stage1.weight": "backbone.norm0.weight",
        f"{ENCODER}hidden_states_norms.stage4.bias": "backbone.norm3.bias",
        f"{DECODER}level_embed": "sem_seg_head.pixel_decoder.transformer.level_embed",
        f"{DECODER}input_projections.2.0.weight":
            "sem_seg_head.pixel_decoder.input_proj.2.0.weight",
        f"{DECODER}input_projections.0.1.bias": "sem_seg_head.pixel_decoder.input_proj.0.1.bias",
        **{
            f"{PIXELS}self_attn.{part}.weight":
                f"sem_seg_head.pixel_decoder.transformer.encoder.layers.0.self_attn.{part}.weight"
            for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
        },
        f"{PIXELS}self_attn_layer_norm.weight":
            "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm1.weight",
        f"{PIXELS}fc1.weight":
            "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear1.weight",
        f"{PIXELS}fc2.bias": "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.linear2.bias",
        f"{PIXELS}final_layer_norm.weight":
            "sem_seg_head.pixel_decoder.transformer.encoder.layers.0.norm2.weight",
        f"{DECODER}adapter_1.0.weight": "sem_seg_head.pixel_decoder.adapter_1.weight",
        f"{DECODER}adapter_1.1.weight": "sem_seg_head.pixel_decoder.adapter_1.norm.weight",
        f"{DECODER}layer_1.0.weight": "sem_seg_head.pixel_decoder.layer_1.weight",
        f"{DECODER}layer_1.1.bias": "sem_seg_head.pixel_decoder.layer_1.norm.bias",
        f"{DECODER}mask_projection.weight": "sem_seg_head.pixel_decoder.mask_features.weight",
        f"{QUERIES}queries_features.weight": "sem_seg_head.predictor.query_feat.weight",
        f"{QUERIES}queries_embedder.weight": "sem_seg_head.predictor.query_embed.weight",
        f"{QUERIES}level_embed.weight": "sem_seg_head.predictor.level_embed.weight",
        f"{LAYER}cross_attn.in_proj_weight":
            "sem_seg_head.predictor.transformer_cross_attention_layers.1.multihead_attn"
            ".in_proj_weight",
        f"{LAYER}cross_attn.out_proj.bias":
            "sem_seg_head.predictor.transformer_cross_attention_layers.1.multihead_attn"
            ".out_proj.bias",
        f"{LAYER}cross_attn_layer_norm.weight":
            "sem_seg_head.predictor.transformer_cross_attention_layers.1.norm.weight",
        f"{LAYER}self_attn.q_proj.weight":
            "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn"
            ".in_proj_weight 0:32",
        f"{LAYER}self_attn.k_proj.bias":
            "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn"
            ".in_proj_bias 32:64",
        f"{LAYER}self_attn.v_proj.weight":
            "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn"
            ".in_proj_weight 64:96",
        f"{LAYER}self_attn.out_proj.weight":
            "sem_seg_head.predictor.transformer_self_attention_layers.1.self_attn.out_proj.weight",
        f"{LAYER}self_attn_layer_norm.bias":
            "sem_seg_head.predictor.transformer_self_attention_layers.1.norm.bias",
        f"{LAYER}fc1.weight": "sem_seg_head.predictor.transformer_ffn_layers.1.linear1.weight",
        f"{LAYER}fc2.weight": "sem_seg_head.predictor.transformer_ffn_layers.1.linear2.weight",
        f"{LAYER}final_layer_norm.weight":
            "sem_seg_head.predictor.transformer_ffn_layers.1.norm.weight",
        f"{QUERIES}decoder.layernorm.weight": "sem_seg_head.predictor.decoder_norm.weight",
        f"{QUERIES}decoder.mask_predictor.mask_embedder.2.0.weight":
            "sem_seg_head.predictor.mask_embed.layers.2.weight",
        "class_predictor.weight": "sem_seg_head.predictor.class_embed.weight",
        "criterion.empty_weight": "criterion.empty_weight",
    },
}  # fmt: skip


@pytest.mark.parametrize("backbone", ["resnet50", "swin_t"])
def test_tensors_lie_where_the_official_names_say(tmp_path: Path, backbone: str) -> None:
    state = tiny_file(backbone)
    own = victim_from(tmp_path / "model.pth", backbone, state).network.state_dict()
    for name, place in BY_HAND[backbone].items():
        official, _, rows = place.partition(" ")
        first, _, last = rows.partition(":")
        expected = state[official][int(first) : int(last)] if rows else state[official]
        assert torch.equal(own[name], expected), name
    assert all(int(v) == 0 for k, v in own.items() if k.endswith("num_batches_tracked"))


FAULTS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    r"1 missing, first backbone\.norm0\.weight": lambda s: s.pop("backbone.norm0.weight"),
    r"1 missing, first backbone\.layers\.0\.blocks\.0\.attn\.qkv\.weight": lambda s: s.pop(
        "backbone.layers.0.blocks.0.attn.qkv.weight"
    ),
    r"1 not known, first sem_seg_head\.predictor\.extra": lambda s: s.update(
        {"sem_seg_head.predictor.extra": torch.ones(1)}
    ),
    r"1 of another shape, first sem_seg_head\.predictor\.class_embed\.bias "
    r"\(\[134\] in the file, \[4\] needed\).*number of classes": lambda s: s.update(
        {"sem_seg_head.predictor.class_embed.bias": torch.ones(134)}
    ),
    r"1 of another shape, first backbone\S+qkv\.bias \(\[49\] in the file, \[48\] needed\)": (
        lambda s: s.update({"backbone.layers.0.blocks.0.attn.qkv.bias": torch.ones(49)})
    ),
    r"\d+ missing, first backbone\.patch_embed.*; \d+ not known, first backbone\.stem": (
        lambda s: (s.clear(), s.update(tiny_file("resnet50")))
    ),
}


def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path: Path) -> None:
    victim = build_victim("mask2former_swin_t", num_classes=3, tiny=True)
    before = {k: v.clone() for k, v in victim.state_dict().items()}
    path = tmp_path / "model.pth"
    for message, change in FAULTS.items():
        state = tiny_file("swin_t")
        change(state)
        torch.save(state, path)
        with pytest.raises(UserError, match=message) as raised:
            load_weights(victim, path)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)
    assert all(torch.equal(before[k], v) for k, v in victim.state_dict().items())


def test_older_names_and_constants_of_the_program_do_not_matter(tmp_path: Path) -> None:
    state = tiny_file("resnet50")
    expected = victim_from(tmp_path / "model.pth", "resnet50", state)
    older = {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace(
            "predictor.query_feat", "predictor.static_query"
        ): value
        for name, value in state.items()
    }
    older |= {"pixel_mean": torch.ones(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert same_tensors(victim_from(tmp_path / "older.pth", "resnet50", older), expected)


def test_detectron2_pickles_of_arrays_are_read_like_torch_files(tmp_path: Path) -> None:
    state = tiny_file("swin_t")
    arrays = {name: value.numpy() for name, value in state.items()}
    table = "backbone.layers.0.blocks.0.mlp.fc1.weight"
    arrays[table] = np.asfortranarray(arrays[table].astype(">f4"))
    path = tmp_path / "model_final.pkl"
    for protocol in (2, 3, 4, 5):
        content = {"model": arrays, "__author__": "Mask2Former"}
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_state_dict(path)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in state.items())
    own = victim_from(path, "swin_t").network.state_dict()
    assert torch.equal(
        own["class_predictor.bias"], state["sem_seg_head.predictor.class_embed.bias"]
    )


class Payload:
    """A pickle of this makes a folder when it is loaded carelessly."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_holds_a_program_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    path, marker = tmp_path / "model_final.pkl", tmp_path / "code-has-run"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(2)}, "extra": Payload(marker)}))
    with pytest.raises(UserError, match=r"refused.*asks for (posix|nt)\.mkdir.*torch\.save"):
        read_state_dict(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the pickle is harmless, and this test proves nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([object], dtype=object), r"asks for (arrays of 'O8'|builtins\.object)"),
        (np.zeros(2, dtype=[("a", "f4")]), "asks for arrays of 'V4'"),
        (torch.ones(2), r"asks for torch\._utils\._rebuild_tensor_v2"),
    ],
)
def test_only_arrays_of_plain_numbers_are_read_from_pickles(
    tmp_path: Path, content: object, message: str
) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": {"sem_seg_head.predictor.a": content}}))
    with pytest.raises(UserError, match=message):
        read_state_dict(path)


def test_a_damaged_pickle_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    data = pickle.dumps({"model": {"sem_seg_head.predictor.a": np.ones((3, 4), np.float32)}})
    path = tmp_path / "model_final.pkl"
    for size in range(2, len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="damaged pickle of arrays"):
            read_state_dict(path)
    forged = data.replace(b"K\x03K\x04\x86", b"K\x03K\x7f\x86")
    assert forged != data
    path.write_bytes(forged)
    with pytest.raises(UserError, match=r"48 bytes for \(3, 127\)"):
        read_state_dict(path)
