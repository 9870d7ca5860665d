"""Panoptic quality equals the rule: on cases worked out by hand, and on random ones by loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from unseg.panoptic_quality import NO_SEGMENT, OPEN_GROUND, PanopticQuality


def quality(
    pred: object, pred_classes: list[int], target: object, target_classes: list[int],
    crowds: list[bool] | None = None, num_classes: int = 2,
) -> PanopticQuality:  # fmt: skip
    found = PanopticQuality(num_classes)
    found.update(
        torch.as_tensor(pred),
        torch.tensor(pred_classes, dtype=torch.int64),
        torch.as_tensor(target),
        torch.tensor(target_classes, dtype=torch.int64),
        torch.tensor(crowds or [False] * len(target_classes), dtype=torch.bool),
    )
    return found


def row(**lengths: int) -> torch.Tensor:
    """One row of pixels: `a3` stands for three pixels of segment 0, `void2` for two of none."""
    codes = {"a": 0, "b": 1, "c": 2, "void": NO_SEGMENT, "open": OPEN_GROUND}
    values = [codes[k.rstrip("0123456789_")] for k, n in lengths.items() for _ in range(n)]
    return torch.tensor([values])


def counts(found: PanopticQuality, index: int = 0) -> tuple[int, int, int]:
    values = (found.hits, found.false_alarms, found.misses)
    return tuple(int(v[index]) for v in values)


def test_a_perfect_prediction_scores_one() -> None:
    target = row(a=4, b=6)
    found = quality(target, [0, 1], target, [0, 1])
    assert found.score() == found.score([0, 1])
    assert (found.score().pq, found.score().sq, found.score().rq) == (1, 1, 1)
    assert found.score().num_classes == 2


def test_unassigned_pixels_stay_in_the_union() -> None:
    # 4 of 10 pixels: no match, although every predicted pixel is right.
    found = quality(row(a=4, void=6), [0], row(a=10), [0])
    assert counts(found) == (0, 1, 1)
    assert found.score().pq == 0
    found = quality(row(a=6, void=4), [0], row(a=10), [0])
    assert found.score().pq == pytest.approx(0.6)


def test_exactly_a_half_is_no_match() -> None:
    found = quality(row(a=5, void=5), [0], row(a=10), [0])
    assert counts(found) == (0, 1, 1)


def test_void_of_the_label_is_left_out_of_the_union_and_forgives() -> None:
    target = row(a=4, void=6)
    found = quality(row(a=10), [0], target, [0])
    assert counts(found) == (1, 0, 0)
    assert found.score().pq == 1
    # Mostly on void: neither hit nor false alarm.
    assert counts(quality(row(void=4, a=6), [1], target, [0]), 1) == (0, 0, 0)
    # Half on void is not most of it.
    half, more = row(void=1, a=6, void_=3), row(void=2, a=6, void_=2)
    assert counts(quality(half, [1], target, [0]), 1) == (0, 1, 0)
    assert counts(quality(more, [1], target, [0]), 1) == (0, 0, 0)


def test_open_ground_counts_but_is_no_segment() -> None:
    target = row(a=4, open=6)
    found = quality(row(a=10), [0], target, [0])
    assert counts(found) == (0, 1, 1)
    assert counts(quality(row(void=4, a=6), [1], target, [0]), 1) == (0, 1, 0)


def test_a_crowd_forgives_its_own_class_alone() -> None:
    target, classes, crowds = row(a=6, b=4), [0, 1], [True, False]
    assert counts(quality(row(a=4, void=6), [0], target, classes, crowds)) == (0, 0, 0)
    assert counts(quality(row(a=4, void=6), [1], target, classes, crowds), 1) == (0, 1, 1)


def test_the_right_place_with_the_wrong_class_is_both_errors() -> None:
    found = quality(row(a=10), [1], row(a=10), [0])
    assert counts(found, 0) == (0, 0, 1)
    assert counts(found, 1) == (0, 1, 0)
    assert found.score().num_classes == 2


def test_classes_that_are_neither_present_nor_predicted_do_not_count() -> None:
    found = quality(row(a=10), [0], row(a=10), [0], num_classes=5)
    assert found.score().pq == 1
    assert found.score([3, 4]).num_classes == 0


def test_maps_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction is \(1, 3\), label is \(1, 2\)"):
        quality(row(a=3), [0], row(a=2), [0])


def slow_counts(
    pred: np.ndarray, pred_classes: list[int], target: np.ndarray, target_classes: list[int],
    crowds: list[bool], num_classes: int,
) -> tuple[list[list[float]], ...]:  # fmt: skip
    """Hits, false alarms, misses and summed IoU of each class, by sets of pixels."""
    pixels = range(pred.size)
    flat_pred, flat_target = pred.ravel().tolist(), target.ravel().tolist()
    preds = [{p for p in pixels if flat_pred[p] == i} for i in range(len(pred_classes))]
    truths = [{p for p in pixels if flat_target[p] == i} for i in range(len(target_classes))]
    void = {p for p in pixels if flat_target[p] == NO_SEGMENT}
    hits, alarms, misses, overlap = ([0.0] * num_classes for _ in range(4))
    is_found, is_hit = [False] * len(preds), [False] * len(truths)
    for (j, truth), (i, found) in itertools.product(enumerate(truths), enumerate(preds)):
        if crowds[j] or pred_classes[i] != target_classes[j] or not found or not truth:
            continue
        iou = len(found & truth) / len((found - void) | truth)
        if iou > 0.5:
            hits[pred_classes[i]] += 1
            overlap[pred_classes[i]] += iou
            is_found[i] = is_hit[j] = True
    for j, truth in enumerate(truths):
        misses[target_classes[j]] += bool(truth) and not crowds[j] and not is_hit[j]
    for i, found in enumerate(preds):
        same = [
            t for j, t in enumerate(truths) if crowds[j] and target_classes[j] == pred_classes[i]
        ]
        forgiving = set.union(void, *same)
        is_alarm = bool(found) and not is_found[i] and len(found & forgiving) <= len(found) / 2
        alarms[pred_classes[i]] += is_alarm
    return hits, alarms, misses, overlap


def random_case(rng: np.random.Generator) -> tuple[object, ...]:
    num_target, num_classes = int(rng.integers(0, 5)), 3
    coarse = rng.integers(-2, num_target, (3, 4))
    target = np.kron(coarse, np.ones((3, 3), int))
    # Predictions are displaced labels with holes, so that many IoUs lie near a half.
    pred = np.roll(target, rng.integers(-1, 2, 2), (0, 1))
    pred[rng.random(pred.shape) < rng.uniform(0, 0.4)] = NO_SEGMENT
    pred[pred == OPEN_GROUND] = rng.choice((NO_SEGMENT, num_target))
    pred_classes = rng.integers(0, num_classes, num_target + 1).tolist()
    target_classes = [c if rng.random() < 0.7 else int(rng.integers(3)) for c in pred_classes[:-1]]
    crowds = (rng.random(num_target) < 0.2).tolist()
    return pred, pred_classes, target, target_classes, crowds, num_classes


def test_three_hundred_random_pictures_equal_a_slow_count() -> None:
    rng = np.random.default_rng(7)
    seen = np.zeros(3)
    for number in range(300):
        case = random_case(rng)
        found = quality(*case)
        hits, alarms, misses, overlap = slow_counts(*case)
        assert found.hits.tolist() == hits, number
        assert found.false_alarms.tolist() == alarms, number
        assert found.misses.tolist() == misses, number
        np.testing.assert_allclose(found.overlap, overlap, err_msg=str(number))
        known = [i for i in range(3) if hits[i] + alarms[i] + misses[i]]
        values = [overlap[i] / (hits[i] + alarms[i] / 2 + misses[i] / 2) for i in known]
        assert found.score().pq == pytest.approx(np.mean(values) if known else 0)
        seen += [sum(hits), sum(alarms), sum(misses)]
    assert (seen > 50).all(), seen  # every outcome is well represented


def test_pictures_add_up_before_any_mean() -> None:
    found = PanopticQuality(1)
    good, bad, classes = row(a=10), row(a=4, void=6), torch.zeros(1, dtype=torch.int64)
    no_crowd = torch.zeros(1, dtype=torch.bool)
    for pred in (good, bad):
        found.update(pred, classes, good, classes, no_crowd)
    assert found.score().pq == pytest.approx(1 / (1 + 0.5 + 0.5))
