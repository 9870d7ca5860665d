"""Typed configuration of an evaluation grid (`unseg evaluate CONFIG`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from unseg.config.dataset import DatasetConfig
from unseg.config.load import bounded

CLEAN = "clean"
"""The method that changes nothing: its row is what all others are measured against."""

FOLDER = "folder"
"""The method that takes pictures protected before, from `train_root` and `test_root`."""

DENSE_TASKS = ("foreground", "semantic")
"""Tasks whose label is a map of classes; the others know objects."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_BUDGET = re.compile(r"\d+(\.\d+)?/\d+(\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """Synthetic scenes instead of files: free of any licence, made in memory."""

    num_train: int = bounded(200, low=2)
    """Scenes to train on (and to choose epochs with)."""
    num_test: int = bounded(60, low=1)
    """Scenes to test on."""
    image_size: int = bounded(128, low=16)
    """Side of a scene in pixels."""
    seed: int = 0
    """Of the scenes."""


@dataclass(frozen=True, kw_only=True)
class VictimDataConfig:
    """A data set to learn from and to test on."""

    train: DatasetConfig | None = None
    """Training pictures; the protector publishes these."""
    test: DatasetConfig | None = None
    """Test pictures; always clean for the headline score."""
    synthetic: SyntheticConfig | None = None
    """Instead of `train` and `test`."""
    task: Literal["foreground", "semantic", "panoptic", "instance", "detection", "interactive"] = (
        "foreground"
    )
    """foreground: objects against the rest, scored by IoU; semantic: classes, by mIoU; panoptic:
    segments, by PQ; instance: masks, by AP; detection: boxes, by AP; interactive: masks that answer
    a box, by mIoU."""
    score_classes: tuple[int, ...] = ()
    """The mean runs over these training classes alone; empty: over all."""
    protect_size: int | None = bounded(None, low=16)
    """Pictures are reduced to this long side before they are protected; None: protected as they
    are. A trainer's own resizing comes after."""
    protect_square: bool = False
    """Reduce to a square of side `protect_size` instead, as trainers that squash will do later."""
    validation_share: float = bounded(0.1, low=0, high=0.5)
    """Share of the training pictures that is kept back, in the state in which they were published,
    for choosing the epoch."""
    public: str | None = None
    """Another name under `data`, whose clean training pictures and masks a trainer has to make
    pairs of with the public generator (defence `regenerate`)."""
    publishable: bool = False
    """Whether the licence allows to embed example pictures in a report that is passed on."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Either files or synthetic scenes, and both halves of the files."""
        if self.synthetic is not None and (self.train or self.test):
            yield "synthetic", "replaces train and test; give one of the two"
        if self.synthetic is None and (self.train is None or self.test is None):
            yield "train", "needs both train and test (or synthetic)"
        if self.protect_square and self.protect_size is None:
            yield "protect_square", "needs protect_size"


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """A way to protect."""

    method: str
    """A method of `unseg generate`, or "folder"."""
    epsilon: float = bounded(8.0, low=0, high=255)
    """Bound inside the region in grey levels, where the grid names no budgets."""
    epsilon_bg: float = bounded(2.0, low=0, high=255)
    """Bound outside the region in grey levels."""
    generator: str | None = None
    """Generator file or shipped name, for methods that use one; None: the shipped default."""
    train_root: str | None = None
    """folder: protected training pictures, named as in the data set's image folder."""
    test_root: str | None = None
    """folder: protected test pictures; None: no score on protected test pictures."""
    seed: int = 0
    """Of the method's own randomness."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further `dotted.key: value` overrides of the generation's configuration."""
    title: str | None = None
    """What tables call it; None: its name."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """A folder needs its root."""
        if self.method == FOLDER and self.train_root is None:
            yield "train_root", "method folder needs the folder of the protected pictures"


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """How a victim is trained."""

    image_size: int = bounded(low=8)
    """Side of the square frame in pixels."""
    keep_ratio: bool = False
    """true: long side to `image_size` and padding; false: squashed to the square."""
    antialias: bool = True
    """Smooth before reducing a picture, as torchvision and Pillow do and OpenCV does not."""
    crop: int | None = bounded(None, low=8)
    """Side of the training crop; None: `image_size`."""
    scale: tuple[float, float] = (0.75, 1.5)
    """Range of the random size factor; [1, 1] for none."""
    flip: float = bounded(0.5, low=0, high=1)
    """Probability of a horizontal flip."""
    epochs: int | None = bounded(None, low=1)
    """Passes over the training pictures; set this or `steps`."""
    steps: int | None = bounded(None, low=1)
    """Optimiser steps instead, rounded up to whole epochs: sets of any size train equally long."""
    batch_size: int = bounded(16, low=2)
    """Pictures a step."""
    brightness: float = bounded(0.0, low=0, high=1)
    """Largest random shift of all values of a picture, in [0, 1]."""
    contrast: float = bounded(0.0, low=0, high=1)
    """Largest random change of a picture's contrast about its mean, as a share."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Update rule; sgd has Nesterov momentum 0.9."""
    lr: float = bounded(low=0)
    """Largest learning rate."""
    weight_decay: float = bounded(0.0, low=0)
    """L2 penalty (decoupled for adamw)."""
    schedule: Literal["onecycle", "poly", "cosine", "constant"] = "onecycle"
    """onecycle: up over the first quarter, then a cosine to zero; poly: power 0.9."""
    loss: Literal["ce", "ce_dice"] = "ce"
    """Cross-entropy alone, or with the soft Dice loss of all classes."""
    eval_every: int | None = bounded(None, low=1)
    """Epochs between two scores of the validation split and the clean test set; None: ten times."""
    eval_batch_size: int = bounded(32, low=1)
    """Pictures scored at once."""
    score_at: Literal["frame", "native"] = "frame"
    """Whether test scores are taken in the square frame or at the pictures' own size."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast, for GPUs."""
    batch_norm: Literal["batch", "frozen"] = "batch"
    """batch: statistics of each batch, with `ranks_per_cell` of all its processes (on GPUs alone);
    frozen: statistics and factors of the initial weights stay as they are."""
    accumulate: int = bounded(1, low=1)
    """Equal parts in which a step's batch goes through the network, to save memory: the gradients
    are those of the whole batch, statistics of batch norm and Dice those of a part."""
    cache_gib: float = bounded(4.0, low=0)
    """Memory of each process for decoded pictures; sets that are larger are decoded again and
    again. Changes no result."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """A sensible range of scales."""
        if not 0 < self.scale[0] <= self.scale[1]:
            yield "scale", f"must be 0 < low <= high, found {list(self.scale)}"
        if (self.epochs is None) == (self.steps is None):
            yield "epochs", "set exactly one of epochs and steps"

    def length(self, steps_an_epoch: int) -> tuple[int, int]:
        """(epochs, epochs between two scores) of a training."""
        epochs = self.epochs or math.ceil((self.steps or 1) / steps_an_epoch)
        return epochs, self.eval_every or math.ceil(epochs / 10)


@dataclass(frozen=True, kw_only=True)
class VictimConfig:
    """A network and its recipe."""

    arch: str
    """Name in the registry of victims (docs/EVALUATION.md)."""
    tiny: bool = False
    """The small version for the CPU."""
    width: float = bounded(1.0, low=0.01)
    """Factor on the channels."""
    encoder: str | None = None
    """Another encoder of the same library, by its name there."""
    weights: Literal["none", "path", "library", "imagenet"] = "none"
    """Initial weights: from scratch, from `weights_path`, the library's own (a download), or an
    ImageNet encoder from an installed package (no download; docs/EVALUATION.md)."""
    weights_path: str | None = None
    """Weights of the victim or of its encoder."""
    train_only: tuple[str, ...] = ()
    """Parameters whose names hold one of these words are trained, the others stay as they are;
    empty: all are trained."""
    recipe: RecipeConfig
    """How it is trained."""
    title: str | None = None
    """What tables call it; None: the registry's title."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Weights from a path need the path."""
        if self.weights == "path" and self.weights_path is None:
            yield "weights_path", "weights: path needs it"


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """A product of choices; the grid is the union of its blocks."""

    data: tuple[str, ...]
    """Names under `data`."""
    methods: tuple[str, ...]
    """Names under `methods`; `clean` needs no entry there."""
    victims: tuple[str, ...]
    """Names under `victims`."""
    budgets: tuple[str, ...] = ()
    """epsilon/epsilon_bg in grey levels, "8/2"; empty: each method's own."""
    defences: tuple[str, ...] = ("none",)
    """Written defences, joined by +: none, jpeg-75, blur-1, grey, oproj-7, adversarial, ...; the
    list is in docs/EVALUATION.md."""
    clean_shares: tuple[float, ...] = (0.0,)
    """Shares of the training pictures that are left clean; 1 is the method clean."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training (and of which pictures stay clean in a mixture)."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Shares in range and budgets well written."""
        for share in self.clean_shares:
            if not 0 <= share <= 1:
                yield "clean_shares", f"must lie in [0, 1], found {share:g}"
        for budget in self.budgets:
            if not _BUDGET.fullmatch(budget):
                yield "budgets", f"write epsilon/epsilon_bg as in 8/2, found {budget!r}"


@dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """A published result to stand beside ours."""

    data: str
    """Name under `data`."""
    victim: str
    """Name under `victims`."""
    method: str
    """Name under `methods`, or clean."""
    defence: str = "none"
    """Written defence."""
    clean_share: float = 0.0
    """Share of clean training pictures."""
    score: float
    """In percent."""
    source: str
    """Where it was published, and under which conditions that differ from ours."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A grid of victims, methods and data sets."""

    run_dir: str
    """Folder of the cells and the report."""
    cache_dir: str | None = None
    """Folder of the protected sets, which several grids may share; None: `run_dir`/cache."""
    title: str = "Evaluation"
    """Heading of the report."""
    dry_run: bool = False
    """Say what the grid would cost and what data and weights are missing, and stop."""
    expected_gpu_hours: float | None = bounded(None, low=0)
    """What the whole grid is expected to cost, for the dry run; the hardware is the comment's."""
    expected_cpu_hours: float | None = bounded(None, low=0)
    """The same of one CPU core, for grids that are made for CPUs."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    num_threads: int = bounded(0, low=0)
    """Threads of a CPU run; 0: torch's choice. Scores are repeatable for one number of threads."""
    num_workers: int | None = bounded(None, low=0)
    """Processes that decode pictures for each that trains; None: 4 beside a GPU, none on a CPU."""
    ranks_per_cell: int = bounded(1, low=1)
    """Processes that train each cell together, one a GPU; `torchrun` or scripts/run_eval.sh starts
    them. `batch_size` is that of all of them."""
    checkpoint_seconds: float = bounded(120.0, low=0)
    """A cell writes its state after this much training, also inside an epoch, so that a killed one
    goes on from there; it does so too when SIGTERM or Ctrl-C stops it."""
    checkpoint_steps: int | None = bounded(None, low=1)
    """Steps after which the state is written, however long they took; None: time alone counts."""
    num_examples: int = bounded(6, low=0)
    """Test pictures whose predictions are kept for the report."""
    data: dict[str, VictimDataConfig]
    """Data sets by name."""
    methods: dict[str, MethodConfig] = field(default_factory=dict)
    """Protection methods by name."""
    victims: dict[str, VictimConfig]
    """Victims by name."""
    grid: tuple[BlockConfig, ...]
    """What is run: the union of these products, each run once."""
    published: tuple[PublishedConfig, ...] = ()
    """Published results to stand beside ours."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Names that are used exist and can be part of a file name."""
        for section in ("data", "methods", "victims"):
            for name in getattr(self, section):
                if not _NAME.fullmatch(name) or "__" in name:
                    yield f"{section}.{name}", "names are letters, digits and . _ - (no __)"
        for name, data in self.data.items():
            if data.public is not None and (data.public not in self.data or data.public == name):
                others = ", ".join(sorted(set(self.data) - {name}))
                yield f"data.{name}.public", f"needs another data set; those are {others or 'none'}"
        for index, block in enumerate(self.grid):
            for section in ("data", "methods", "victims"):
                known = {*getattr(self, section), *([CLEAN] if section == "methods" else [])}
                for name in getattr(block, section):
                    if name not in known:
                        accepted = ", ".join(sorted(known))
                        yield f"grid.{index}.{section}", f"unknown {name!r}; known are {accepted}"
