"""The generator's passes: halved where memory runs out, and their precision."""

import logging

import numpy as np
import pytest
import torch
from generate_cases import (
    entries_of,
    make_config,
    make_image,
    make_mask,
    make_set,
    protect_set,
    saturated_generator,
    tree_bytes,
)
from torch import nn

from unseg.protection import noise_maker as forward
from unseg.protection.noise_maker import NoiseMaker, PromptedImage, runs_in_bfloat16
from unseg.protection.reading.prompts import model_prompts
from unseg.protection.run import generate
from unseg.utils.processor import instruction_sets

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


class SmallMemory(nn.Module):
    """A generator on a device that holds `most` images."""

    def __init__(self, most):
        super().__init__()
        self.inner, self.most, self.sizes = saturated_generator(), most, []
        self.encoder_dtype = None

    def __getattr__(self, name):
        if name in ("image_size", "noise_size", "noise_carrier", "build_arguments"):
            return getattr(self.inner, name)
        return super().__getattr__(name)

    def forward(self, image, prompts):
        self.sizes.append(len(image))
        if len(image) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much")
        self.inner.encoder_dtype = self.encoder_dtype
        return self.inner(image, prompts)


def rows(count):
    size = (20, 30)
    prompts = model_prompts(size, image_size=32, mask_size=16, mask=make_mask(*size) > 0)
    return [PromptedImage(make_image(i, *size), prompts) for i in range(count)]


@pytest.mark.parametrize("batch_size", [2, 6, 7, 8])
def test_halved_passes_give_the_noise_of_passes_of_that_size(batch_size):
    given = [None if i == 1 else row for i, row in enumerate(rows(batch_size))]
    model = SmallMemory(2 if batch_size > 2 else 1)
    found = NoiseMaker(model, device=CPU, batch_size=batch_size)(given)
    size = model.sizes[-1]
    assert size <= model.most
    small = NoiseMaker(saturated_generator(), device=CPU, batch_size=size)
    expected = [n for i in range(0, batch_size, size) for n in small(given[i : i + size])]
    assert found[1] is expected[1] is None
    for slot in set(range(batch_size)) - {1}:
        assert torch.equal(found[slot], expected[slot]), slot


def test_a_run_that_meets_the_end_of_memory_says_so_and_writes_the_files_of_a_smaller_batch(
    tmp_path, caplog
):
    root = make_set(tmp_path / "in", 9)
    model = SmallMemory(3)
    with caplog.at_level(logging.WARNING):
        summary = generate(make_config(root, tmp_path / "out", "run.batch_size=8"), generator=model)
    assert summary.exit_code == 0
    assert summary.counts["protected"] == 9
    assert model.sizes == [8, 4, *[2] * 5], "it tried the larger batches again"
    said = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert len(said) == 2
    assert "out of memory with 8 images in one pass; goes on with 4" in said[0]
    assert "run.batch_size=2" in said[1]
    protect_set(root, tmp_path / "small", "run.batch_size=2")
    assert tree_bytes(tmp_path / "out") == tree_bytes(tmp_path / "small")


def test_an_image_that_does_not_fit_alone_is_its_line_and_not_the_end_of_the_run(tmp_path):
    root = make_set(tmp_path / "in", 2)
    config = make_config(root, tmp_path / "out", "run.batch_size=2")
    summary = generate(config, generator=SmallMemory(0))
    assert (summary.exit_code, summary.counts["failed"]) == (1, 2)
    for entry in entries_of(tmp_path / "out").values():
        assert "out of memory with a single image" in entry["reason"]


@pytest.mark.parametrize(
    ("precision", "instructions", "expected"),
    [
        ("float32", ("amx_bf16",), False),
        ("bfloat16", (), True),
        ("bfloat16", ("avx512_bf16",), True),
        ("auto", (), False),
        ("auto", ("amx_bf16", "avx512_bf16"), True),
    ],
)
def test_the_cpus_instructions_decide_an_automatic_precision(
    monkeypatch, caplog, precision, instructions, expected
):
    monkeypatch.setattr(forward, "bfloat16_instructions", lambda: instructions)
    with caplog.at_level(logging.INFO):
        assert runs_in_bfloat16(CPU, precision) is expected
    if precision == "auto":
        named = " and ".join(instructions) or "none of amx_bf16, avx512_bf16"
        assert f"bfloat16 instructions of this CPU: {named}" in caplog.text


def test_cuda_is_automatically_bfloat16():
    assert runs_in_bfloat16(torch.device("cuda"), "auto")
    assert not runs_in_bfloat16(torch.device("cuda"), "float32")


def test_bfloat16_on_a_cpu_is_the_encoders_alone():
    generator = saturated_generator()
    seen = []
    layers = {"encoder": generator.image_encoder.blocks[0].attn.qkv}
    layers["decoder"] = generator.mask_decoder.transformer.layers[0].self_attn.q_proj
    hooks = [
        layer.register_forward_hook(lambda m, i, out, name=name: seen.append((name, out.dtype)))
        for name, layer in layers.items()
    ]
    try:
        for precision in ("bfloat16", "float32"):  # one generator may serve both
            NoiseMaker(generator, device=CPU, precision=precision)(rows(1))
    finally:
        for hook in hooks:
            hook.remove()
        generator.encoder_dtype = None
    assert seen == [
        ("encoder", torch.bfloat16),
        ("decoder", torch.float32),
        ("encoder", torch.float32),
        ("decoder", torch.float32),
    ]


def test_a_grey_picture_gives_the_noise_of_its_repeated_channel():
    grey, prompts = make_image(3, 20, 30, 1), rows(1)[0].prompts
    maker = NoiseMaker(saturated_generator(), device=CPU, batch_size=1)
    (found,) = maker([PromptedImage(grey, prompts)])
    (expected,) = maker([PromptedImage(np.repeat(grey, 3, axis=2), prompts)])
    assert torch.equal(found, expected)


def test_instruction_sets_are_read_from_the_first_processor(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nflags\t\t: fpu avx512_bf16\n\nflags\t: fpu amx_bf16\n")
    assert instruction_sets(path) == {"fpu", "avx512_bf16"}
    assert instruction_sets(tmp_path / "missing") == frozenset()
