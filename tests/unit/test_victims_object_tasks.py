"""From queries to segments, from labels to targets and back: equal to slow loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from victim_cases import load_tensors

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import RecipeConfig, SyntheticConfig, VictimDataConfig
from unseg.data.annotations import build_source
from unseg.data.annotations.base import Annotation, Segment
from unseg.victims.data.augment import augment
from unseg.victims.data.label_files import LabelWriter, components, label_config
from unseg.victims.data.load import num_classes, object_ranks
from unseg.victims.data.segments import (
    Found,
    Frame,
    Segments,
    Target,
    label_targets,
    mask_boxes,
    paint,
    segments_of,
)
from unseg.victims.data.splits import make_pictures, split_config
from unseg.victims.data.tensor_set import TensorSet
from unseg.victims.grid.run_cell import build_task
from unseg.victims.networks.mask2former import class_scores, instances, panoptic
from unseg.victims.training.object_tasks import ObjectTask


def queries(seed: int, count: int = 6, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Random queries: blobs, some alike, most of them sure of a class."""
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(count, classes + 1, generator=rng)
    coarse = 6 * torch.randn(count, 1, 3, 4, generator=rng)
    masks = torch.nn.functional.interpolate(coarse, (9, 12), mode="bilinear")[:, 0]
    masks[1] = masks[0] + 0.3 * torch.randn(9, 12, generator=rng)
    return logits, masks


def slow_panoptic(
    logits: torch.Tensor, masks: torch.Tensor, things: set[int]
) -> list[tuple[int, set[tuple[int, int]]]]:
    """(class, pixels) of each segment, in the order of the queries, one pixel at a time."""
    probability, sigmoid = logits.softmax(-1).tolist(), masks.sigmoid().tolist()
    none = len(probability[0]) - 1
    sure = {}
    for q, row in enumerate(probability):
        best = max(range(none + 1), key=lambda c: row[c])
        if best != none and row[best] > 0.8:
            sure[q] = (best, row[best])
    pixels = [(y, x) for y in range(masks.shape[1]) for x in range(masks.shape[2])]
    won: dict[int, set[tuple[int, int]]] = {q: set() for q in sure}
    for y, x in pixels if sure else []:
        won[max(sure, key=lambda q: sure[q][1] * sigmoid[q][y][x])].add((y, x))
    segments: list[tuple[int, set[tuple[int, int]]]] = []
    for q, (category, _) in sure.items():
        wanted = {(y, x) for y, x in pixels if sigmoid[q][y][x] >= 0.5}
        mask = wanted & won[q]
        if not mask or len(won[q]) / len(wanted) < 0.8:
            continue
        same = [s for s in segments if s[0] == category and category not in things]
        if same:
            same[0][1].update(mask)
        else:
            segments.append((category, set(mask)))
    return segments


def test_panoptic_segments_equal_a_loop_over_pixels() -> None:
    seen = merged = 0
    for seed in range(60):
        logits, masks = queries(seed)
        expected = slow_panoptic(logits, masks, {0})
        found = panoptic(logits, masks, things=frozenset({0}))
        assert found.masks is not None
        assert found.categories.tolist() == [c for c, _ in expected], seed
        for mask, (_, pixels) in zip(found.masks, expected, strict=True):
            assert {(y, x) for y, x in mask.nonzero().tolist()} == pixels, seed
        assert (found.masks.sum(0) <= 1).all()
        seen += len(expected)
        merged += len(panoptic(logits, masks, things=frozenset({0, 1, 2})).scores) - len(expected)
    assert seen > 40
    assert merged > 0  # stuff of one class became one segment somewhere


def test_instances_equal_a_loop_over_pairs() -> None:
    logits, masks = queries(1)
    found = instances(logits, masks, limit=7)
    pairs = []
    for q, row in enumerate(logits.softmax(-1).tolist()):
        inside = masks[q] > 0
        sureness = float(masks[q].sigmoid()[inside].mean()) if inside.any() else 0.0
        pairs += [(p, p * sureness, c, q) for c, p in enumerate(row[:-1])]
    pairs.sort(reverse=True)
    assert found.categories.tolist() == [c for _, _, c, _ in pairs[:7]]
    np.testing.assert_allclose(found.scores, [s for _, s, _, _ in pairs[:7]], rtol=1e-5)
    assert found.masks is not None
    for mask, box, (_, _, _, q) in zip(found.masks, found.boxes, pairs, strict=False):
        assert torch.equal(mask, masks[q] > 0)
        assert torch.equal(box, mask_boxes(mask[None])[0])


def test_class_scores_sum_over_queries() -> None:
    logits, masks = queries(2)
    expected = sum(
        logits[q].softmax(-1)[:-1, None, None] * masks[q].sigmoid()[None] for q in range(6)
    )
    torch.testing.assert_close(class_scores(logits, masks), expected)


def test_no_sure_query_leaves_the_picture_empty() -> None:
    _, masks = queries(3)
    found = panoptic(torch.zeros(6, 4), masks, things=frozenset())
    assert found.masks is not None
    assert found.masks.shape == (0, 9, 12)


def test_boxes_are_tight_and_segments_survive_packing() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 8, 11), bool)
    masks[0, 2:5, 3:9] = masks[1, 7, 10] = masks[2, 0, 0] = True
    masks[3] = rng.random((8, 11)) < 0.5
    void = rng.random((8, 11)) < 0.3
    packed = Segments.pack(masks, np.arange(5), np.arange(5) % 2 == 0, void)
    assert packed.categories.tolist() == [0, 1, 2, 3]  # the empty one is left out
    np.testing.assert_array_equal(packed.masks(), masks[:4])
    np.testing.assert_array_equal(packed.void_mask(), void)
    boxes = mask_boxes(torch.from_numpy(masks)).tolist()
    assert boxes[:3] == [[3, 2, 9, 5], [10, 7, 11, 8], [0, 0, 1, 1]]
    assert boxes[4] == [0, 0, 0, 0]


def test_a_reduced_picture_is_padded_with_void() -> None:
    mask = np.zeros((1, 20, 40), bool)
    mask[0, 8:, :20] = True
    nothing = np.zeros((20, 40), bool)
    small = Segments.pack(mask, np.zeros(1), np.zeros(1), nothing).resized((5, 10), side=10)
    assert small.size == (10, 10)
    assert small.void_mask()[5:].all()
    assert not small.void_mask()[:5].any()
    frame = Frame((5, 10), (20, 40))
    boxes = frame.scale_boxes(mask_boxes(torch.from_numpy(small.masks())))
    assert boxes.tolist() == mask_boxes(torch.from_numpy(mask)).tolist()
    assert frame.unscale_boxes(boxes).tolist() == [[0, 2, 5, 5]]
    assert frame.resize(torch.zeros(3, 10, 10)).shape == (3, 20, 40)


def test_labels_without_a_class_are_void_and_crowds_are_segments() -> None:
    class_map = np.array([[5, 5, -1, 7], [-1, -1, 9, 7]], np.int32)
    segments = tuple(
        Segment(class_map == c, c, is_crowd=c == 9, is_thing=True, instance_id=c) for c in (5, 7, 9)
    )
    crowd_map = np.where(class_map == 9, -1, class_map)
    label = Annotation(2, 4, crowd_map, segments)
    closed = segments_of(label, {5: 0, 9: 1}, open_background=False)
    assert closed.categories.tolist() == [0, 1]
    assert closed.is_crowd.tolist() == [False, True]
    assert closed.void_mask().tolist() == (class_map == -1).tolist()
    assert not segments_of(label, {5: 0}, open_background=True).void_mask().any()
    assert segments_of(label, None, open_background=True).categories.tolist() == [0, 0, 0]


def test_a_label_map_becomes_one_target_a_class() -> None:
    label = torch.tensor([[[0, 0, 255], [2, 2, 255]]])
    (target,) = label_targets(label, 3)
    assert target.categories.tolist() == [0, 2]
    assert torch.equal(target.masks[1], label[0] == 2)


def test_an_augmented_batch_moves_objects_with_their_pixels() -> None:
    side, count = 32, 6
    rng = torch.Generator().manual_seed(1)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in masks:
        y, x = torch.randint(0, 16, (2,), generator=rng).tolist()
        mask[y : y + 14, x : x + 14] = True
    nothing = np.zeros((side, side), bool)
    data = TensorSet(
        images=(masks[:, None] * 200).to(torch.uint8).expand(-1, 3, -1, -1).contiguous(),
        labels=masks.to(torch.uint8),
        keys=tuple(map(str, range(count))),
        extents=torch.full((count, 2), side),
        segments=tuple(
            Segments.pack(np.stack([m, ~m]), np.array([1, 0]), np.array([False, True]), nothing)
            for m in masks.numpy()
        ),
    )
    images, targets = augment(
        data, crop=24, scale=(0.7, 1.5), flip=0.5, generator=rng,
        device=torch.device("cpu"),
    )  # fmt: skip
    assert images.shape == (count, 3, 24, 24)
    for image, target in zip(images, targets, strict=True):
        assert isinstance(target, Target)
        assert target.categories.tolist() in ([1], [])  # crowds are not learnt
        bright = image[0] > 0.4
        seen = target.masks[0] if len(target.masks) else torch.zeros_like(bright)
        assert (bright == seen).float().mean() > 0.95
        if len(target.masks):
            assert torch.equal(target.boxes, mask_boxes(target.masks))


def test_written_labels_read_back_as_they_were(tmp_path: Path) -> None:
    import cv2

    rng = np.random.default_rng(2)
    ids = np.kron(rng.integers(0, 4, (3, 4)), np.ones((6, 5), int))
    segments = tuple(
        Segment(ids == i, category=4 + i, is_crowd=i == 2, is_thing=i == 1, instance_id=i)
        for i in (1, 2, 3)
    )
    label = Annotation(18, 20, np.where(ids, ids + 4, -1).astype(np.int32), segments)
    for format_ in ("coco", "panoptic"):
        config = label_config(tmp_path / format_, format_)
        (tmp_path / format_ / "images").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / format_ / "images/a.png"), np.zeros((18, 20, 3), np.uint8))
        writer = LabelWriter(config, {5: "x", 6: "y", 7: "z"}, frozenset({5}))
        writer.add("a.png", label, (18, 20))
        writer.close()
        source = build_source(config)
        assert source.class_names == {5: "x", 6: "y", 7: "z"}
        assert source.thing_ids == {5}
        found = source.read(source.items()[0])
        assert [(s.category, s.is_crowd) for s in found.segments] == [
            (5, False), (6, True), (7, False)
        ]  # fmt: skip
        for ours, theirs in zip(found.segments, segments, strict=True):
            np.testing.assert_array_equal(ours.mask, theirs.mask)


@pytest.mark.parametrize("task", ["panoptic", "detection", "interactive"])
def test_scenes_are_loaded_as_objects(tmp_path: Path, task: str) -> None:
    scenes = SyntheticConfig(num_train=3, num_test=2, image_size=32)
    data = VictimDataConfig(synthetic=scenes, task=task)
    make_pictures(data, tmp_path)
    dataset = split_config(data, "test", tmp_path)
    assert num_classes(dataset, task) == 1
    assert object_ranks(dataset, task) == (None if task == "interactive" else {1: 0})
    recipe = RecipeConfig(image_size=16, epochs=1, lr=1e-3, score_at="native")
    loaded = load_tensors(dataset, recipe=recipe, task=task, is_test=True)
    segments, frame = loaded.scored(0)
    assert segments.size == (32, 32)
    assert frame == Frame((16, 16), (32, 32))
    assert loaded.segments is not None
    assert loaded.segments[0].size == (16, 16)
    assert loaded.select([1]).scored(0)[0] is loaded.scored(1)[0]


class Oracle(torch.nn.Module):
    """Answers with the label itself."""

    def __init__(self, data: TensorSet) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.labels = [data.scored(i)[0] for i in range(len(data))]

    def find(self, images: torch.Tensor, frames: object, **_: object) -> list[Found]:
        answers = []
        for label in self.labels[: len(images)]:
            masks = torch.from_numpy(label.masks())
            scores = torch.ones(len(masks))
            categories = torch.from_numpy(label.categories)
            answers.append(Found(categories, scores, mask_boxes(masks), masks))
        self.labels = self.labels[len(images) :] + self.labels[: len(images)]
        return answers


@pytest.mark.parametrize("name", ["panoptic", "instance", "detection", "interactive"])
def test_an_oracle_scores_one_and_the_floor_lies_below(tmp_path: Path, name: str) -> None:
    scenes = SyntheticConfig(num_train=2, num_test=5, image_size=32)
    data = VictimDataConfig(synthetic=scenes, task=name)
    make_pictures(data, tmp_path)
    recipe = RecipeConfig(image_size=16, epochs=1, lr=1e-3, score_at="native", eval_batch_size=2)
    dataset = split_config(data, "test", tmp_path)
    loaded = load_tensors(dataset, recipe=recipe, task=name, is_test=True)
    task = build_task(dataset, data, recipe)
    assert isinstance(task, ObjectTask)
    oracle = Oracle(loaded)
    assert task.score(oracle, loaded) == pytest.approx(1)
    details = task.details(oracle, loaded)
    assert details["score"] == pytest.approx(1)
    assert all(0 <= value <= 1 + 1e-9 for value in details.values())
    floor = task.floor(loaded)
    assert floor == 0 if name != "interactive" else 0.3 < floor < 0.95


def test_interactive_scores_are_means_over_data_sets() -> None:
    task = ObjectTask(1, "interactive", groups=("a", "b/c"))
    full, half = torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)
    half[:, :2] = True
    pictures = [
        (0, "a/1.png", full, full),
        (1, "a/2.png", full, half),
        (2, "b/c/1.png", full, half),
    ]
    scores = task._interactive(iter(pictures))
    assert scores["miou a"] == pytest.approx(0.75)
    assert scores["miou b/c"] == pytest.approx(0.5)
    assert scores["score"] == pytest.approx(0.625)


def test_things_alone_are_learnt_by_detectors(tmp_path: Path) -> None:
    label = components(np.eye(8, dtype=bool))
    config = label_config(tmp_path, "panoptic")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    writer = LabelWriter(config, {1: "thing", 4: "stuff"}, frozenset({1}))
    writer.add("a.png", label, (8, 8))
    writer.close()
    assert object_ranks(config, "panoptic") == {1: 0, 4: 1}
    assert object_ranks(config, "detection") == {1: 0}
    assert isinstance(config, DatasetConfig)


def test_overlapping_masks_are_painted_the_smaller_on_top() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 1:3, 1:3] = masks[1] = True
    painted = paint(masks, [7, 8])
    assert painted[1, 1] == 7
    assert painted[0, 0] == 8
