"""Weights that the tests of `unseg.models.weights` write, read and break."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from unseg.models import Generator, Surrogate, build_generator, build_surrogate
from unseg.types import Prompts


def randomise(module: nn.Module, seed: int) -> None:
    """Make every tensor of a module its own: no zeros, no ones, no two alike."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.state_dict().values():
            value.add_(0.02 * torch.randn(value.shape, generator=rng))


def tiny_generator(seed: int = 0, **arguments: object) -> Generator:
    generator = build_generator("tiny", **arguments)
    randomise(generator, seed)
    return generator.eval()


def tiny_surrogate(seed: int = 0, image_size: int | None = None) -> Surrogate:
    surrogate = build_surrogate("tiny", image_size)
    randomise(surrogate, seed)
    return surrogate


def save_sam(
    path: Path, seed: int = 7, size: str = "tiny", **arguments: object
) -> dict[str, Tensor]:
    """Write what Meta's file would be for a size, and return its tensors."""
    generator = build_generator(size, **arguments)
    randomise(generator, seed)
    whole = generator.state_dict()
    state = {name: value.clone() for name, value in whole.items() if "noise" not in name}
    torch.save(state, path)
    return state


@torch.no_grad()
def noise_of(generator: Generator) -> Tensor:
    """Noise of a generator for a fixed image with a box and a point."""
    rng = torch.Generator().manual_seed(3)
    side = generator.image_size
    prompts = Prompts(
        boxes=torch.tensor([[0.2, 0.1, 0.8, 0.7]]) * side,
        point_coords=torch.tensor([[[0.5, 0.4]]]) * side,
    )
    return generator(torch.rand(1, 3, side, side, generator=rng), prompts)


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same_state(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Same names, types, shapes and bytes."""
    assert list(found) == list(wanted) or set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name
