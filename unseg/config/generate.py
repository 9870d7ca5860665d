"""Configuration of a generation run: what is protected, by what noise, and what is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from unseg.config.dataset import DatasetConfig
from unseg.config.load import bounded

PromptKind = Literal["mask", "box", "points", "whole"]


@dataclass(frozen=True, kw_only=True)
class GeneratorFileConfig:
    """Which frozen generator makes the noise."""

    path: str = "default"
    """Name of an embedded generator, or a weight file: the released layout, a training checkpoint
    or a safetensors file of ours."""
    parent: str | None = None
    """Segment Anything file below a safetensors file that holds the trained tensors only."""


@dataclass(frozen=True, kw_only=True)
class NoiseOptionsConfig:
    """The budget, and options that some of the methods read."""

    epsilon: float = bounded(8.0, low=0, high=255)
    """Bound inside the region, in 8-bit grey levels; also for 16-bit images (times 257 there)."""
    epsilon_bg: float | None = bounded(None, low=0, high=255)
    """Bound outside of the region, in 8-bit grey levels; None: 2 as in the paper, or 0 where a
    pattern makes the noise, whose contrast marks the object."""
    grid: int | None = bounded(None, low=1, high=4096)
    """Side of the grid of signs that no generator makes; None: the generator's noise grid."""
    tile: int = bounded(4, low=1, high=4096)
    """Side of the piece of signs that is repeated, in cells of the grid."""
    carrier: str | None = None
    """Colours and scales of the sign methods (unseg.noise.Carrier), such as `luma` or
    `0.75 luma/2 + 0.25 opponent/4, sharp`; None: as the generator, else rgb."""
    key: str | None = None
    """File that holds a secret of 16 to 4096 bytes, or `env:NAME` of an environment variable; never
    the secret itself. The noise of each picture then depends on it and on the picture, so that who
    has the program cannot compute it (docs/METHOD.md, "Keyed noise"). None: no secret."""
    psnr: float | None = bounded(None, low=5, high=100)
    """PSNR in dB that methods without a bound are brought to on every image; None: their own
    strength. One that filters the image is only made weaker, never stronger."""
    classes: Literal["label", "region"] = "label"
    """What classes are, for methods that go by them: those of the label map, or region and rest."""
    patch: int | None = bounded(None, low=8, high=4096)
    """Side of the pieces that are filled one by one; None: each image in one piece."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What types cannot say."""
        if self.epsilon_bg is not None and self.epsilon_bg > self.epsilon:
            yield "epsilon_bg", f"must be <= noise.epsilon ({self.epsilon:g})"


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What steers the noise. The region does not depend on it where there is a label."""

    kind: PromptKind = "mask"
    """From the label: its mask, its tight box, points drawn inside it, or the whole image. Boxes
    and points of a `folder` data set are taken as they are."""
    num_points: int = bounded(10, low=1, high=256)
    """Number of points drawn for `points`."""
    per_instance: bool = False
    """One prompt for each object, their noises composited; False: one prompt for their union, as in
    the paper."""


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """Where the larger budget applies."""

    mode: Literal["all", "classes", "single", "things"] = "all"
    """All labelled objects, those of `classes`, of one class, or countable things only."""
    classes: tuple[int, ...] = ()
    """Class ids for `classes` and `single`."""
    map: Literal["native", "official"] = "native"
    """The label at its own size, or seen through the prompt's grid as in the released program."""
    on_empty: Literal["copy", "error"] = "copy"
    """An image without a protected pixel is copied (status `unprotected`), or has failed."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What types cannot say."""
        if self.mode in ("classes", "single") and not self.classes:
            yield "classes", f"region.mode={self.mode} needs the ids of the classes to protect"
        if self.mode == "single" and len(self.classes) > 1:
            yield "classes", "region.mode=single takes one class; use mode=classes for several"
        if self.mode in ("all", "things") and self.classes:
            yield "classes", f"is not read with region.mode={self.mode}; use mode=classes"


@dataclass(frozen=True, kw_only=True)
class ProtectedSetConfig:
    """What is written, and where."""

    dir: str
    """Folder of the protected set, its manifest and summary; not inside the input."""
    format: Literal["png", "same", "jpeg"] = "png"
    """png, the input's own lossless format (`same`; PNG where it has none), or lossy jpeg."""
    quality: int = bounded(95, low=1, high=100)
    """Quality of jpeg, and of methods that compress."""
    layout: Literal["tree", "mirror"] = "tree"
    """`tree`: the images alone, in the tree of the input; `mirror`: a drop-in replacement of the
    data set's folder with its annotations, lists and JSON."""
    annotations: Literal["link", "copy"] = "link"
    """mirror: the other files are hard links (copies where the disk has none), or copies."""
    copy_unlisted: bool = False
    """mirror: pictures outside of the list, of no labels' folder, are copied too (test pictures,
    other labels). They are not protected."""
    keep_suffix: bool = False
    """Write the bytes of `format` under the input's own name, for readers that go by content."""
    noise: bool = False
    """Write the amplified noise of every image below `unseg_noise/`."""
    contact_sheet: int = bounded(0, low=0, high=200)
    """Number of images in `contact_sheet.png`: clean, protected, amplified difference."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the work is done; nothing here changes what a picture looks like but for `seed`."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the generator; auto: bfloat16 on CUDA and on a CPU with instructions for it
    (amx_bf16, avx512_bf16; the log tells), else float32. On a CPU in the encoder alone."""
    batch_size: int | None = bounded(None, low=1, high=256)
    """Images in one forward pass; None: 8 on CUDA, 1 on a CPU, where batches gain nothing. Halved,
    with a line in the log, where the device runs out of memory."""
    decode_workers: int = bounded(2, low=1, high=64)
    """Threads that read images and labels ahead of the model."""
    encode_workers: int = bounded(4, low=1, high=64)
    """Threads that encode, write and re-read behind the model."""
    seed: int = bounded(42, low=0)
    """Signs, drawn points and partners derive from it and the image's name."""
    limit: int | None = bounded(None, low=1)
    """Only the first images of the list."""
    fail_fast: bool = False
    """Stop at the first image that fails, instead of reporting it and going on."""
    restart: bool = False
    """Forget what an earlier run into the same folder has done, and do it again."""
    dry_run: bool = False
    """Check everything that can be checked before, print the plan, write nothing."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """A whole generation run."""

    data: DatasetConfig
    """The images and their labels."""
    output: ProtectedSetConfig
    """What is written, and where."""
    method: str = "unseg"
    """Name of a method: of unseg itself, of a control or of a method to compare with (the list with
    a line for each stands in docs/EVALUATION.md, the code in unseg/protection/methods)."""
    generator: GeneratorFileConfig = field(default_factory=GeneratorFileConfig)
    """Which frozen generator makes the noise."""
    noise: NoiseOptionsConfig = field(default_factory=NoiseOptionsConfig)
    """The budget."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """What steers the noise."""
    region: RegionConfig = field(default_factory=RegionConfig)
    """Where the larger budget applies."""
    run: RunConfig = field(default_factory=RunConfig)
    """How the work is done."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Faults between sections."""
        if self.prompt.kind == "whole" and self.prompt.per_instance:
            yield "prompt.per_instance", "has no meaning with prompt.kind=whole"
        if self.prompt.per_instance and self.noise.key is not None:
            yield "prompt.per_instance", "cannot be combined with noise.key; choose one of the two"
        if self.output.layout == "mirror" and self.run.limit is not None:
            yield "run.limit", "leaves a mirrored data set incomplete; use output.layout=tree"
