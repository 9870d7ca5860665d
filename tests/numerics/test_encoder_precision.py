"""The frozen encoder in bfloat16 below a float32 decoder."""

import torch
from weight_cases import tiny_generator

from unseg.types import Prompts


def _noise(generator, dtype):
    random = torch.Generator().manual_seed(3)
    side = generator.image_size
    image = torch.rand(2, 3, side, side, generator=random)
    prompts = Prompts(boxes=torch.tensor([[3.0, 4.0, 20.0, 25.0], [0.0, 8.0, 30.0, 30.0]]))
    seen = []
    hook = generator.mask_decoder.register_forward_pre_hook(
        lambda _, inputs: seen.extend(tensor.dtype for tensor in inputs[:2])
    )
    generator.encoder_dtype = dtype
    try:
        with torch.no_grad():
            return generator(image, prompts), seen
    finally:
        generator.encoder_dtype = None
        hook.remove()


def test_an_encoder_in_bfloat16_moves_the_noise_by_less_than_a_quarter_of_a_level():
    generator = tiny_generator(0).eval()
    exact, _ = _noise(generator, None)
    rough, decoder_inputs = _noise(generator, torch.bfloat16)
    difference = 8 * (exact - rough).abs()
    assert difference.max() <= 0.25, f"max {difference.max():.3f}, mean {difference.mean():.3f}"
    assert difference.max() > 0, "the encoder ran in float32"
    assert decoder_inputs == [torch.float32, torch.float32]
    assert rough.dtype == torch.float32


def test_the_encoders_precision_is_no_part_of_the_weights_or_the_build():
    generator = tiny_generator(0)
    keys, arguments = list(generator.state_dict()), generator.build_arguments
    generator.encoder_dtype = torch.bfloat16
    assert list(generator.state_dict()) == keys
    assert generator.build_arguments == arguments
