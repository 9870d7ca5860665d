"""Every victim that finds objects keeps one contract: it learns, and it runs at its real size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from unseg.data.synthetic import Synthetic
from unseg.utils.errors import UserError
from unseg.victims.data.augment import augment
from unseg.victims.data.label_files import components
from unseg.victims.data.segments import Frame, segments_of
from unseg.victims.data.tensor_set import TensorSet, fit_frame
from unseg.victims.networks.registry import ARCHITECTURES, build_victim
from unseg.victims.networks.victim import ObjectVictim, Victim
from unseg.victims.training.object_tasks import ObjectTask

CPU = torch.device("cpu")


def four_scenes(side: int = 64) -> TensorSet:
    """Four synthetic pictures; two of them are two scenes, one above the other.

    Embedded objects are hard to see by design; what is asked of a victim here is to learn what can
    be seen.
    """
    scenes = Synthetic(6, image_size=2 * side, seed=3, contrast=(16, 30), grain=5)
    samples = [scenes[i] for i in range(6)]
    pictures = [(s.image, s.mask > 0) for s in samples[:2]]
    for above, below in (samples[2:4], samples[4:6]):
        image = np.concatenate([above.image[::2], below.image[::2]])
        pictures.append((image, np.concatenate([above.mask[::2], below.mask[::2]]) > 0))
    images, maps, segments = [], [], []
    for pixels, mask in pictures:
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        label = torch.from_numpy(mask.astype(np.uint8))
        framed, small, _ = fit_frame(image, label, side=side, keep_ratio=False)
        whole = segments_of(components(mask), {1: 0}, open_background=True)
        images.append(framed)
        maps.append(small)
        segments.append(whole.resized((side, side), side=side))
    return TensorSet(
        torch.stack(images),
        torch.stack(maps),
        tuple("abcd"),
        torch.full((4, 2), side),
        segments=tuple(segments),
    )


def as_batch(data: TensorSet) -> tuple[torch.Tensor, Any]:
    return augment(
        data, crop=data.images.shape[-1], scale=(1, 1), flip=0,
        generator=torch.Generator(), device=CPU,
    )  # fmt: skip


class ObjectVictimContract:
    """What holds for every victim that finds objects; a subclass names one and its task."""

    arch: str
    task: str
    score = "score"
    max_steps = 200
    lr = 3e-3
    real_side = 64

    @pytest.mark.slow
    def test_tiny_version_overfits_four_pictures(self) -> None:
        torch.manual_seed(0)
        data = four_scenes()
        task = ObjectTask(1, self.task, things=frozenset({0}))
        victim = build_victim(self.arch, num_classes=1, tiny=True, image_size=64)
        assert isinstance(victim, ObjectVictim)
        optimizer = torch.optim.Adam(victim.parameters(), self.lr, fused=True)
        images, targets = as_batch(data)
        best = 0.0
        for step in range(self.max_steps):
            victim.train()
            loss = task.loss(victim, images, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(victim.parameters(), 1.0)
            optimizer.step()
            if step % 20 == 19:
                best = max(best, task.details(victim, data)[self.score])
                if best > 0.9:
                    return
        pytest.fail(f"{self.score} {best:.3f} after {self.max_steps} steps")

    def test_a_picture_without_objects_has_a_finite_loss(self) -> None:
        torch.manual_seed(0)
        data = four_scenes()
        victim = build_victim(self.arch, num_classes=1, tiny=True, image_size=64)
        assert isinstance(victim, ObjectVictim)
        images, targets = as_batch(data)
        empty = type(targets[0]).of(targets[0].masks[:0], targets[0].categories[:0])
        for chosen in ([empty, targets[1]], [empty, empty]):
            loss = victim.loss(images[:2], chosen)
            loss.backward()
            assert loss.shape == ()
            assert torch.isfinite(loss)

    def test_width_makes_it_larger(self) -> None:
        sizes = [
            sum(
                p.numel()
                for p in build_victim(self.arch, num_classes=1, tiny=True, width=width).parameters()
            )
            for width in (1.0, 2.0)
        ]
        assert sizes[1] > sizes[0]

    @pytest.mark.slow
    def test_real_size_takes_two_steps_and_evaluates(self) -> None:
        torch.manual_seed(0)
        # The whole network; frames of 64 or 128 pixels, since its cost here is that of its weights.
        side = self.real_side
        data = four_scenes(side)
        victim = build_victim(self.arch, num_classes=3, image_size=side)
        assert isinstance(victim, ObjectVictim)
        task = ObjectTask(3, self.task, things=frozenset({0}))
        optimizer = torch.optim.SGD(victim.parameters(), 1e-4)
        images, targets = as_batch(data)
        losses = []
        for _ in range(2):
            loss = task.loss(victim, images[:2], targets[:2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] != losses[1]
        for name, parameter in victim.named_parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
        victim.eval()
        # Another size than the frame's, of which the lower quarter is padding.
        frames = [Frame((3 * side // 4, side), (90, 120))] * 2
        boxes = [torch.tensor([[4.0, 4.0, 30.0, 40.0]])] * 2
        with torch.no_grad():
            found = victim.find(images[:2], frames, task=self.task, boxes=boxes)
        for one in found:
            assert len(one.scores) == len(one.categories) == len(one.boxes)
            assert ((one.categories >= 0) & (one.categories < 3)).all()
            assert (one.boxes >= 0).all()
            assert (one.boxes <= torch.tensor([120, 90, 120, 90])).all()
            if one.masks is not None:
                assert one.masks.shape[1:] == (90, 120)


class TestMask2FormerResNet50(ObjectVictimContract):
    arch, task = "mask2former_resnet50", "panoptic"


class TestMask2FormerSwinT(ObjectVictimContract):
    arch, task, score = "mask2former_swin_t", "instance", "ap50"


class TestMaskRCNN(ObjectVictimContract):
    arch, task, score = "maskrcnn_resnet50", "instance", "ap50"


class TestDeformableDetr(ObjectVictimContract):
    arch, task, score = "deformable_detr_resnet50", "detection", "ap50"
    real_side = 128  # fewer positions than its 300 queries otherwise


class TestRTDetrV2(ObjectVictimContract):
    arch, task, score = "rtdetrv2_resnet50", "detection", "ap50"
    real_side = 128  # as above


class TestSamHQ(ObjectVictimContract):
    arch, task = "sam_hq_vit_b", "interactive"


def test_every_registered_victim_has_a_contract() -> None:
    tested = {c.arch for c in ObjectVictimContract.__subclasses__()}
    assert tested == {name for name, entry in ARCHITECTURES.items() if entry.victim is not Victim}


def test_freezing_others_trains_the_named_parameters_alone() -> None:
    words = ("hq_", "mask_conv")
    victim = build_victim("sam_hq_vit_b", num_classes=1, tiny=True, image_size=64, train_only=words)
    trained = {name for name, p in victim.named_parameters() if p.requires_grad}
    assert trained
    assert all(any(word in name for word in words) for name in trained)
    with pytest.raises(UserError, match="no parameter of the victim has 'lora' in its name"):
        build_victim("sam_hq_vit_b", num_classes=1, tiny=True, image_size=64, train_only=["lora"])
