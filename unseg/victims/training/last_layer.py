"""`dfr-P`: before each score the last layer is retrained on a few clean pictures.

Reference: P. Kirichenko, P. Izmailov, A. G. Wilson, "Last Layer Re-Training is Sufficient for
Robustness to Spurious Correlations", ICLR 2023 (DFR).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unseg.config.evaluate import RecipeConfig
from unseg.utils.errors import UserError
from unseg.utils.seed import derive_seed, torch_generator
from unseg.victims.data.augment import augment
from unseg.victims.data.picture_set import Pictures
from unseg.victims.networks.victim import Victim, channels_last
from unseg.victims.training.adversarial import as_tested
from unseg.victims.training.class_map_task import Task

STEPS = 50
LEARNING_RATE = 0.01


def class_head(victim: Victim, *, defence: str) -> nn.Conv2d:
    """The last convolution of a victim that yields one channel a class.

    Raises:
        UserError: it has none; the message names the defence.
    """
    heads = [
        module
        for module in victim.network.modules()
        if isinstance(module, nn.Conv2d) and module.out_channels == victim.num_classes
    ]
    if not heads:
        raise UserError(
            f"defence {defence} needs a victim whose last convolution has one channel a class; "
            "use adversarial for this one"
        )
    return heads[-1]


class CleanLastLayer:
    """Retrains a victim's last layer from new weights, all else as it is tested.

    Args:
        victim: a victim of label maps.
        clean: the clean pictures that the trainer has.
        task: gives the loss.
        recipe: says how many pictures a step, and whether they are flipped.
        seed: of the weights and the order.
    """

    def __init__(
        self, victim: Victim, clean: Pictures, task: Task, recipe: RecipeConfig, *, seed: int
    ) -> None:
        self.victim, self.clean, self.task, self.seed = victim, clean, task, seed
        self.recipe = recipe
        self.head = class_head(victim, defence="dfr")

    @contextmanager
    def retrained(self, epoch: int) -> Iterator[None]:
        """The victim of an epoch with its new last layer; afterwards it has the old one again."""
        before = copy.deepcopy(self.head.state_dict())
        self.retrain(epoch)
        try:
            yield
        finally:
            self.head.load_state_dict(before)

    def retrain(self, epoch: int) -> None:
        """Replace the last layer; the same victim and epoch give the same one."""
        frozen = [p for p in self.victim.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, epoch, "last layer") % 2**32)
            self.head.reset_parameters()
        self.head.requires_grad_(True)
        with as_tested(self.victim):
            self._learn(torch_generator(self.seed, epoch, "last layer order"))
        self.head.requires_grad_(False)
        for parameter in frozen:
            parameter.requires_grad_(True)

    def _learn(self, rng: torch.Generator) -> None:
        device = self.head.weight.device
        optimizer = torch.optim.Adam(self.head.parameters(), LEARNING_RATE)
        for _ in range(STEPS):
            rows = torch.randint(len(self.clean), (self.recipe.batch_size,), generator=rng)
            pictures, target = augment(
                self.clean.load(rows.tolist()),
                crop=self.recipe.image_size,
                scale=(1.0, 1.0),
                flip=self.recipe.flip,
                generator=rng,
                device=device,
            )
            loss = self.task.loss(self.victim, channels_last(pictures), target, dice=False)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
