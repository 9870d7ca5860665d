"""What a training run can be told: `unseg train CONFIG.yaml [key=value ...]`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from unseg.config.load import bounded

Problem = tuple[str, str]
Size = Literal["tiny", "small", "vit_b", "vit_l", "vit_h"]
SurrogateSize = Literal[
    "tiny", "small", "vit_b", "vit_l", "vit_h", "resnet50", "efficientnet_lite0"
]
Unit = Literal["epochs", "steps"]

IMAGENET = "imagenet"
"""Value of `surrogate.weights` that means an installed package instead of a file."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which image and mask pairs to learn from."""

    source: Literal["hqseg44k", "lists", "synthetic"]
    """HQSeg-44K in its published folders, files of `image<TAB>mask` lines, or embedded scenes."""
    root: str = "data"
    """Folder that HQSeg-44K's parts, or the paths in the lists, lie in."""
    links_to: tuple[str, ...] = ()
    """Folders elsewhere that symbolic links may lead to, where a list or JSON file names them."""
    train_lists: tuple[str, ...] = ()
    """List files below `root` to train on (source: lists)."""
    validation_lists: tuple[str, ...] = ()
    """List files below `root` to validate on, each a set of its own (source: lists)."""
    list_folders: tuple[str, ...] = ()
    """Take only images of the lists that lie in one of these folders below `root`; empty: all."""
    coco_instances: str | None = None
    """COCO instances JSON below `root` whose larger instances become further training pairs."""
    coco_images: str | None = None
    """Folder below `root` with the images of `coco_instances`."""
    min_instance_share: float = bounded(0.01, low=0, high=1)
    """Smallest share of its image that an instance must cover to be taken."""
    num_synthetic: int = bounded(512, low=1)
    """Embedded scenes to train on (source: synthetic)."""
    synthetic_size: int = bounded(256, low=16)
    """Side of an embedded scene in pixels."""
    num_workers: int = bounded(4, low=0)
    """Decoding processes of each rank; 0 decodes in the training process. Changes no result."""
    skip_faulty: bool = False
    """Start although the check before training found faulty pairs, leaving those out."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        if self.source == "lists" and not self.train_lists:
            yield "train_lists", "is empty; name at least one list file (source: lists)"
        if (self.coco_instances is None) != (self.coco_images is None):
            yield "coco_instances", "needs coco_images beside it, and the other way round"


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The player that is kept."""

    size: Size = "vit_b"
    """Row of `unseg.models.SIZES`."""
    image_size: int = bounded(1024, low=32)
    """Side of the square input in pixels; divisible by the patch."""
    noise_readout: Literal["noise_tokens", "official"] = "noise_tokens"
    """Which decoder tokens make the noise; `official` is the released program's slip."""
    train_encoder: bool = False
    """Train the image encoder too (ablation); it is frozen in the paper's recipe."""
    weights: str | None = None
    """Segment Anything's file for the frozen parts, or that of `unseg pretrain-sam`, or null for
    random ones."""


@dataclass(frozen=True, kw_only=True)
class SurrogateConfig:
    """The player that stands for everyone who trains on protected images."""

    size: SurrogateSize = "vit_b"
    """Row of `unseg.models.SIZES`, or a convolutional encoder: `resnet50` (the paper's ablation),
    `efficientnet_lite0` (ours; small enough for a CPU)."""
    image_size: int = bounded(512, low=16)
    """Side of the square input; the generator's is a whole multiple of it."""
    weights: str | None = None
    """MAE weights for the encoder, a whole segmenter (of `unseg pretrain-sam`), `imagenet` for
    those of an installed package (size: efficientnet_lite0), or null for random ones."""
    checkpoint_blocks: bool = False
    """Gradient checkpointing of the encoder's blocks: a fraction of the memory for one more forward
    pass of time. Changes no gradient, so a run may be resumed with another value."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        if self.checkpoint_blocks and self.size in ("resnet50", "efficientnet_lite0"):
            yield "checkpoint_blocks", f"needs a ViT; size={self.size} has no such blocks"
        if self.weights == IMAGENET and self.size != "efficientnet_lite0":
            yield "weights", f"imagenet needs size=efficientnet_lite0, not {self.size}"


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Budget of the noise while training; a smaller one generalises to a larger (paper's EG)."""

    epsilon: float = bounded(1.0, low=0, high=255)
    """Bound inside the object, in grey levels of 255."""
    epsilon_bg: float = bounded(0.25, low=0, high=255)
    """Bound outside the object, in grey levels; at most `epsilon`."""
    carrier: str = "rgb"
    """Colours and scales of the noise (unseg.noise.Carrier): `rgb`, a field for each colour (the
    paper's); `luma`, one for all, which survives greyscale; `opponent, sharp`, green against
    magenta in cells of hard edges; sums such as `0.75 luma/2 + 0.25 opponent/4, sharp`."""
    centred: Literal[0, 2, 4] = 0
    """Noise without a mean in squares of so many cells: 4, a token, so that it cannot become a
    tint; 2, finer texture still. 0: as it comes."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        if self.epsilon_bg > self.epsilon:
            yield "epsilon_bg", f"must be <= noise.epsilon ({self.epsilon:g})"


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss of both players."""

    label_modification: bool = True
    """Generator's target is all ones (paper's LM); false: the true mask (ablation)."""
    num_points: int = bounded(12_544, low=1)
    """Sampled points a mask."""
    oversample: float = bounded(3.0, low=1)
    """Uniform candidates per point."""
    uncertain_share: float = bounded(0.75, low=0, high=1)
    """Share of the points that are the most undecided candidates."""
    bce_weight: float = bounded(1.0, low=0)
    """Weight of the binary cross-entropy."""
    dice_weight: float = bounded(1.0, low=0)
    """Weight of the dice loss."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Who learns when, and for how long."""

    unit: Unit = "epochs"
    """Unit of `period` and `surrogate`."""
    period: int = bounded(4, low=1)
    """Length of one round of the game."""
    surrogate: int = bounded(1, low=0)
    """The first so many of each period train the surrogate, the rest the generator."""
    epochs: int | None = bounded(None, low=1)
    """Length of the run in epochs; set this or `steps`."""
    steps: int | None = bounded(None, low=1)
    """Length of the run in steps; set this or `epochs`."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        if self.surrogate > self.period:
            yield "surrogate", f"must be <= schedule.period ({self.period})"
        if (self.epochs is None) == (self.steps is None):
            yield "epochs", "set exactly one of schedule.epochs and schedule.steps"


@dataclass(frozen=True, kw_only=True)
class PlayerOptimConfig:
    """Adam of one player."""

    lr: float = bounded(1e-4, low=0)
    """Learning rate at the start."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Two Adams, one a player; no weight decay."""

    generator: PlayerOptimConfig = field(default_factory=PlayerOptimConfig)
    """Generator's optimiser."""
    surrogate: PlayerOptimConfig = field(default_factory=PlayerOptimConfig)
    """Surrogate's optimiser."""
    drop_unit: Unit = "epochs"
    """Unit of `drop_at`."""
    drop_at: tuple[int, ...] = ()
    """Epochs or steps (of the whole run, from 0) from which on the rate is multiplied once more."""
    drop_factor: float = bounded(0.1, low=0, high=1)
    """What it is multiplied by."""
    batch_size: int = bounded(32, low=1)
    """Images of one step, over all ranks."""
    micro_batch_size: int | None = bounded(None, low=1)
    """Images of one forward pass on one rank; gradients add up to the same step. null: all."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the networks under autocast; losses and weights stay float32."""


@dataclass(frozen=True, kw_only=True)
class RobustConfig:
    """Degradations of the protected image that the surrogate sees, drawn for each image.

    All off in the paper's recipe. A degradation that autograd cannot follow passes its gradient
    straight through.
    """

    jpeg: float = bounded(0.0, low=0, high=1)
    """Probability of a JPEG round trip."""
    jpeg_quality: tuple[int, int] = (50, 95)
    """Lowest and highest quality."""
    blur: float = bounded(0.0, low=0, high=1)
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.3, 1.0)
    """Smallest and largest standard deviation in pixels of the generator's frame."""
    greyscale: float = bounded(0.0, low=0, high=1)
    """Probability of losing the colours."""
    down_up: float = bounded(0.0, low=0, high=1)
    """Probability of being made smaller and larger again."""
    down_up_scale: tuple[float, float] = (0.5, 0.9)
    """Smallest and largest factor."""
    tint: float = bounded(0.0, low=0, high=1)
    """Probability of a shift of each colour that is the same at every pixel."""
    tint_levels: float = bounded(32.0, low=0, high=255)
    """Largest shift in grey levels."""
    sizes: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest factor, log-uniform, by which the picture is scaled after all that and
    before it is cropped or padded to the surrogate's frame at a random place; its mask and the
    surrogate's prompts move with it. [1, 1]: off."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        ranges = {
            "jpeg_quality": (self.jpeg_quality, 1, 100),
            "blur_sigma": (self.blur_sigma, 0.01, 10),
            "down_up_scale": (self.down_up_scale, 0.05, 1),
            "sizes": (self.sizes, 0.05, 20),
        }
        for key, ((first, last), low, high) in ranges.items():
            if not low <= first <= last <= high:
                yield key, f"must be [smallest, largest] within {low:g} to {high:g}"


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """How the game is watched."""

    unit: Unit = "epochs"
    """Unit of `every`."""
    every: int = bounded(1, low=1)
    """Validate after so many epochs or steps, and at the end."""
    limit: int | None = bounded(None, low=1)
    """At most so many samples of each set, spread evenly over it."""
    batch_size: int = bounded(8, low=1)
    """Images of one forward pass on one rank."""
    epsilon: float = bounded(8.0, low=0, high=255)
    """Budget of generation, inside the object; measured beside the training budget."""
    epsilon_bg: float = bounded(2.0, low=0, high=255)
    """The same outside the object."""
    num_images: int = bounded(4, low=0)
    """Samples of each set whose pictures are written."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        if self.epsilon_bg > self.epsilon:
            yield "epsilon_bg", f"must be <= validate.epsilon ({self.epsilon:g})"


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where results go and how often."""

    dir: str = "work_dirs"
    """Parent folder of the run directory, which is named after the run."""
    log_every: int = bounded(20, low=1)
    """Steps between two log lines."""
    checkpoint_every: int | None = bounded(None, low=1)
    """Steps between two checkpoints; null: at the end of each epoch. Always at the end."""
    keep_last: int = bounded(2, low=1)
    """Newest checkpoints kept, beside the best by gap."""
    tensorboard: bool = True
    """Write TensorBoard files beside metrics.jsonl."""
    weight_dir: str = "weight_dir"
    """Folder for `export_official`."""
    export_official: bool = False
    """Write `Generator_<name>_final.pth` in the released layout at the end."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run of the bilevel game."""

    name: str
    """Name of the run directory and of the exported weights."""
    seed: int = bounded(42, low=0)
    """All random draws derive from it."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    resume: bool = False
    """Insist on continuing: fail where there is no checkpoint. Runs continue by themselves."""
    resume_from: str | None = None
    """Checkpoint to continue from where the run directory has none of its own."""
    data: DataConfig
    """Training and validation pairs."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """The noise generator."""
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    """The surrogate segmenter."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """Training budget."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Loss."""
    schedule: ScheduleConfig
    """Who learns when."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimisers and batch."""
    robust: RobustConfig = field(default_factory=RobustConfig)
    """Degradations while training."""
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    """Validation."""
    output: OutputConfig = field(default_factory=OutputConfig)
    """Run directory."""

    def problems(self) -> Iterator[Problem]:
        """What types and bounds cannot say."""
        if self.generator.image_size % self.surrogate.image_size:
            yield (
                "surrogate.image_size",
                f"must divide generator.image_size ({self.generator.image_size})",
            )
        if not self.name or "/" in self.name or self.name.startswith("."):
            yield "name", "must be a plain folder name"
