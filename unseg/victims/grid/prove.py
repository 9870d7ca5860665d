"""What a protection is worth on one's own pictures: small victims, cross-validated, in minutes.

Two victims, one from scratch and one that knows ImageNet, learn from the clean pictures, from the
protected ones and from the untrained control, with varied sizes, flips, brightness and contrast.
Each picture is tested once, clean, by victims that have not seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from unseg.config.evaluate import RecipeConfig
from unseg.metrics import protection
from unseg.utils.logging import Progress
from unseg.utils.seed import derive_seed
from unseg.victims.data.splits import validation_rows
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.grid.proof_pictures import STATES, ProofSet, read_sets
from unseg.victims.networks.registry import build_victim
from unseg.victims.training.class_map_task import ClassMapTask
from unseg.victims.training.fit import FitState, fit

FEWEST_PICTURES = 20
"""Below it nothing is trained: with three folds a victim would be tested on six pictures."""
FOLDS = 3
COST = "about 13 minutes of one CPU core, however many pictures there are"
"""Measured: 797 s for 30 pictures. The number of steps does not depend on theirs."""
_VALIDATION = 0.15


@dataclass(frozen=True)
class ProofVictim:
    """A victim of a proof.

    Attributes:
        title: what tables call it.
        arch: in the registry.
        weights: initial ones.
        recipe: how it is trained.
        cost: of a step, beside those of other victims; for the time left.
    """

    title: str
    arch: str
    weights: str
    recipe: RecipeConfig
    cost: int = 1


_SIZES = (0.5, 2.0)
VICTIMS: dict[str, ProofVictim] = {
    "scratch": ProofVictim(
        "U-Net from scratch, 64 px",
        "unet_plain",
        "none",
        RecipeConfig(
            image_size=64, steps=300, lr=3e-3, scale=_SIZES, brightness=0.1, contrast=0.2
        ),
    ),
    "pretrained": ProofVictim(
        "U-Net that knows ImageNet, 96 px",
        "unet_efficientnet_lite0",
        "imagenet",
        RecipeConfig(
            image_size=96, steps=120, lr=1e-3, scale=_SIZES, brightness=0.1, contrast=0.2,
            optimizer="adamw", weight_decay=0.01,
        ),
        cost=5,
    ),
}  # fmt: skip
"""Name -> victim. One step of 16 pictures takes 0.1 and 0.4 s of one CPU core."""


@dataclass(frozen=True)
class Trained:
    """One training of a proof; scores are IoU of the object in [0, 1].

    Attributes:
        selected: clean-test score of the epoch chosen on validation pictures in the same state.
        peak: of the epoch that is best on the clean test.
        own: score of the selected epoch on test pictures in the state it learnt from.
        curve: (epoch, clean-test score).
    """

    selected: float
    peak: float
    own: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Proof:
    """All trainings of a proof.

    Attributes:
        num_pictures: learnt from and tested on in turn.
        num_without: pictures left out because they have no mask, or one of a single class.
        budget: of the control, in grey levels.
        is_budget_known: whether it is that of the protection.
        trained: (victim, state) -> the training of each fold; empty where pictures were too few.
    """

    num_pictures: int
    num_without: int
    budget: tuple[float, float]
    is_budget_known: bool
    trained: Mapping[tuple[str, str], tuple[Trained, ...]]

    @property
    def victims(self) -> tuple[str, ...]:
        """Names of the victims that were trained."""
        return tuple(dict.fromkeys(victim for victim, _ in self.trained))

    def protection(self, victim: str, state: str, *, at_peak: bool = False) -> list[float]:
        """Protection in each fold; NaN where the clean victim learnt nothing there."""
        folds = zip(self.trained[victim, "clean"], self.trained[victim, state], strict=True)
        if at_peak:
            return [protection(clean.peak, other.peak) for clean, other in folds]
        return [protection(clean.selected, other.selected) for clean, other in folds]


def prove(
    found: ProofSet,
    *,
    victims: Mapping[str, ProofVictim] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], object] | None = None,
) -> Proof:
    """Train and test every victim on every fold in every state.

    Args:
        found: the pictures; below `FEWEST_PICTURES` nothing is trained.
        victims: by name; None: `VICTIMS`.
        seed: of the trainings; the states of a fold share it, so that equal pictures give equal
            scores.
        on_progress: called with the (done, total) parts of the training, first with none done; who
            takes them shows how far the proof is, and no bar or line of ours does.

    Raises:
        UserError: a damaged picture, or the extra [eval] is missing.
    """
    victims = VICTIMS if victims is None else victims
    trained: dict[tuple[str, str], list[Trained]] = {}
    if len(found.pictures) >= FEWEST_PICTURES:
        torch.use_deterministic_algorithms(True, warn_only=True)
        is_shown = on_progress is None
        sides = sorted({v.recipe.image_size for v in victims.values()})
        sets = read_sets(found, sides, is_shown=is_shown)
        folds = _folds([picture.keys[0] for picture in found.pictures])
        once = sum(v.cost * (v.recipe.steps or 0) for v in victims.values())
        total = FOLDS * len(STATES) * once
        with Progress(total, "prove", unit="parts", every=15, is_shown=is_shown) as progress:

            def count(parts: int) -> None:
                progress.update(parts)
                if on_progress is not None:
                    on_progress(progress.done, total)

            count(0)
            for fold in folds:
                for name, victim in victims.items():
                    for state in STATES:
                        side = victim.recipe.image_size
                        result = _train(
                            victim, sets[side, "clean"], sets[side, state], fold, seed, count
                        )
                        trained.setdefault((name, state), []).append(result)
    return Proof(
        num_pictures=len(found.pictures),
        num_without=found.num_without,
        budget=found.budget,
        is_budget_known=found.is_budget_known,
        trained={place: tuple(results) for place, results in trained.items()},
    )


def _folds(keys: list[str]) -> list[list[int]]:
    """Rows of the test pictures of each fold; every picture once, by its name alone."""
    ranked = sorted(range(len(keys)), key=lambda i: derive_seed("fold", keys[i]))
    return [sorted(ranked[fold::FOLDS]) for fold in range(FOLDS)]


class _Counted:
    """Counts the steps of a fit, weighed by their cost, and keeps nothing of it."""

    def __init__(self, count: Callable[[int], None], victim: ProofVictim) -> None:
        self.count, self.cost, self.left = count, victim.cost, victim.recipe.steps or 0

    def is_due(self) -> bool:
        """Count a step; a fit rounds their number up to whole epochs."""
        if self.left:
            self.count(self.cost)
            self.left -= 1
        return False

    def keep(self, state: FitState) -> None:
        """Nothing is asked for."""


def _train(
    victim: ProofVictim,
    clean: TensorSet,
    published: TensorSet,
    fold: list[int],
    seed: int,
    count: Callable[[int], None],
) -> Trained:
    """One training on all but a fold, tested on the fold."""
    rows = sorted(set(range(len(clean))) - set(fold))
    kept = {rows[i] for i in validation_rows([clean.keys[i] for i in rows], _VALIDATION)}
    learnt = [i for i in rows if i not in kept]
    task = ClassMapTask(num_classes=2)
    torch.manual_seed(derive_seed(seed, "proof weights") % 2**32)
    network = build_victim(
        victim.arch,
        num_classes=2,
        tiny=victim.weights != "none",
        weights=victim.weights,
        image_size=victim.recipe.image_size,
    )
    state = fit(
        network,
        published.select(learnt),
        recipe=victim.recipe,
        task=task,
        validation=published.select(sorted(kept)),
        clean_test=clean.select(fold),
        seed=seed,
        keeper=_Counted(count, victim),
    )
    network.load_state_dict(state.selected)
    return Trained(
        selected=task.score(network, clean.select(fold)),
        peak=max(row["clean_test"] for row in state.curve),
        own=task.score(network, published.select(fold)),
        curve=tuple((row["epoch"], row["clean_test"]) for row in state.curve),
    )
