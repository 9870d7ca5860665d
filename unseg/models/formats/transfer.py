"""Putting tensors from a file into a module: strict, with a report of what went where."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unseg.models.build import SIZES
from unseg.models.encoder import ImageEncoder, resample_pos_embed
from unseg.utils.errors import UserError

ENCODER = "image_encoder."

_POS_EMBED = ENCODER + "pos_embed"
_REL_POS = re.compile(re.escape(ENCODER) + r"blocks\.(\d+)\.attn\.rel_pos_[hw]")
_BLOCK = re.compile(re.escape(ENCODER) + r"blocks\.(\d+)\.")


class Resampled(NamedTuple):
    """A tensor interpolated to another grid, with its shapes before and after."""

    name: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of every tensor of a file and of a model.

    Attributes:
        source: the file or files.
        taken: the model's tensors now equal to the file's.
        resampled: the model's tensors interpolated from the file's.
        fresh: the model's tensors that keep the values they had.
        unused: the file's tensors that the model has no place for, by their names in the file.
    """

    source: str
    taken: tuple[str, ...]
    resampled: tuple[Resampled, ...] = ()
    fresh: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for people: one line of counts, then the tensors not simply taken."""
        lines = [
            f"{self.source}: {len(self.taken)} tensors taken, {len(self.resampled)} resampled, "
            f"{len(self.fresh)} fresh, {len(self.unused)} unused"
        ]
        lines += [
            f"  resampled {name}: {_shape(found)} -> {_shape(wanted)}"
            for name, found, wanted in self.resampled
        ]
        lines += [f"  fresh {name}" for name in self.fresh]
        return lines + [f"  unused {name}" for name in self.unused]


def never(_: str) -> bool:
    """No tensor may be missing."""
    return False


def transfer(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str | Path,
    may_stay_fresh: Callable[[str], bool] = never,
    resample: bool = False,
    unused: Iterable[str] = (),
) -> LoadReport:
    """Copy `state` into a generator or surrogate; nothing changes unless everything fits.

    Args:
        module: the model; its parameters keep their type and device.
        state: tensors by the model's names.
        source: the file, for messages and the report.
        may_stay_fresh: which names of the model the file may lack.
        resample: interpolate absolute positions bicubically, and the relative ones of global
            blocks linearly, where the file was made for another grid.
        unused: names of the file left out by the caller, for the report.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    check_size(module, state, source)
    resampled = []
    fitted = dict(state)
    if resample:
        for name in _grid_dependent(module) & set(state):
            wanted = tuple(own[name].shape)
            if tuple(state[name].shape) != wanted and _can_resample(state[name], wanted):
                fitted[name] = _resample(state[name], wanted)
                resampled.append(Resampled(name, tuple(state[name].shape), wanted))
    fresh = tuple(name for name in own if name not in state and may_stay_fresh(name))
    shapes = {name: tuple(own[name].shape) for name in own if name not in fresh}
    check_tensors(fitted, shapes, source)
    module.load_state_dict(fitted, strict=False)
    changed = {entry.name for entry in resampled}
    return LoadReport(
        source=str(source),
        taken=tuple(name for name in own if name in state and name not in changed),
        resampled=tuple(sorted(resampled)),
        fresh=fresh,
        unused=tuple(unused),
    )


def check_tensors(
    found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], source: str | Path
) -> None:
    """Refuse tensors that are not exactly the wanted ones.

    Args:
        found: tensors by name.
        wanted: shapes by name.
        source: the file, for the message.

    Raises:
        UserError: with everything missing, unexpected or of another shape, in one line.
    """
    faults = []
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    wrong = [
        f"{name} is {_shape(found[name].shape)}, not {_shape(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if missing:
        faults.append(f"{_tensors(missing)} missing ({_some(missing)})")
    if unexpected:
        faults.append(f"{_tensors(unexpected)} unexpected ({_some(unexpected)})")
    if wrong:
        faults.append(f"{_tensors(wrong)} of the wrong size ({_some(wrong)})")
    if faults:
        raise UserError(
            f"{source}: {'; '.join(faults)}; give the complete file made for this model "
            "(`unseg weights inspect` says what a file holds)"
        )


def check_fit(outline: nn.Module, found: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse tensors that are not exactly those of a model, which need not be built for it.

    Args:
        outline: the model, which may lie on the meta device.
        found: tensors by name.
        source: the file, for the message.

    Raises:
        UserError: of another size, or with a tensor missing, unexpected or of another shape.
    """
    check_size(outline, found, source)
    shapes = {name: tuple(value.shape) for name, value in outline.state_dict().items()}
    check_tensors(found, shapes, source)


class EncoderShape(NamedTuple):
    """What the shapes of an encoder's tensors tell of the model."""

    embed_dim: int
    depth: int
    patch_size: int
    grid: int | None

    @property
    def size(self) -> str | None:
        """The model size with this width, depth and patch; None where there is none."""
        for name, spec in SIZES.items():
            if (spec.embed_dim, spec.depth, spec.patch_size) == self[:3]:
                return name
        return None

    def __str__(self) -> str:
        name = f"{self.size}: " if self.size else ""
        return f"{name}width {self.embed_dim}, {self.depth} blocks, patch {self.patch_size}"


def encoder_shape(state: Mapping[str, Tensor]) -> EncoderShape | None:
    """Shape of the encoder whose tensors `state` holds under `image_encoder.`, if it holds one."""
    weight = state.get(ENCODER + "patch_embed.proj.weight")
    blocks = {int(match[1]) for name in state if (match := _BLOCK.match(name))}
    if weight is None or weight.ndim != 4 or not blocks:
        return None
    positions = state.get(_POS_EMBED)
    grid = positions.shape[1] if positions is not None and positions.ndim == 4 else None
    return EncoderShape(weight.shape[0], max(blocks) + 1, weight.shape[-1], grid)


def check_size(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse an encoder of another model size before listing hundreds of tensors.

    Raises:
        UserError: naming both sizes.
    """
    found, wanted = encoder_shape(state), encoder_shape(module.state_dict())
    if found is None or wanted is None or found[:3] == wanted[:3]:
        return
    advice = f"build the model with size={found.size!r}, or " if found.size else ""
    raise UserError(
        f"{source}: wrong model size: the file holds an encoder of {found}; the model is of "
        f"{wanted}; {advice}give weights of the model's size"
    )


def _grid_dependent(module: nn.Module) -> set[str]:
    """Names whose shape follows the grid: positions, and relative ones of global blocks."""
    encoder = module.image_encoder
    if not isinstance(encoder, ImageEncoder):
        return set()
    names = {_POS_EMBED}
    for name, _ in module.named_parameters():
        match = _REL_POS.fullmatch(name)
        if match and encoder.blocks[int(match[1])].window_size == 0:
            names.add(name)
    return names


def _can_resample(tensor: Tensor, wanted: tuple[int, ...]) -> bool:
    """Whether the difference of shape is one of grids only."""
    if len(wanted) == 4:  # positions (1, g, g, C)
        return tensor.ndim == 4 and (tensor.shape[0], tensor.shape[3]) == (1, wanted[3])
    return tensor.ndim == 2 and tensor.shape[1] == wanted[1]  # relative ones (2g - 1, C)


def _resample(tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    if len(wanted) == 4:
        return resample_pos_embed(tensor, wanted[1])
    # As `segment_anything` does itself when a table does not fit the grid.
    rows = F.interpolate(tensor.float().T[None], wanted[0], mode="linear", align_corners=False)
    return rows[0].T.contiguous()


def _tensors(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _shape(shape: Iterable[int] | torch.Size) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
