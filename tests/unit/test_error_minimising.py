"""EM, the optimised reference: what its noise does to a learner, its budget, resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from generate_cases import entries_of, make_config, make_image, make_mask, make_set, tree_bytes

from unseg.protect.generate import generate
from unseg.protect.layout import LEARNT_NOISE
from unseg.protect.methods import MethodOptions
from unseg.protect.methods.base import VOID
from unseg.protect.methods.error_minimising import Reduced, learn_noise, reduce_picture
from unseg.utils.errors import UserError

SMALL = ("method=em", "em.size=16", "em.rounds=2", "em.surrogate_steps=2", "em.noise_steps=2")
CPU = torch.device("cpu")


def pictures(count: int = 6, side: int = 32) -> list[Reduced]:
    """Pictures whose object cannot be seen at all: its place is in the label alone."""
    found = []
    for i in range(count):
        rng = torch.Generator().manual_seed(i)
        image = 0.3 + 0.4 * torch.rand(3, side, side, generator=rng)
        y, x = torch.randint(0, side // 2, (2,), generator=rng).tolist()
        classes = torch.zeros(side, side)
        classes[y : y + side // 2, x : x + side // 2] = 7
        classes[:2] = VOID
        found.append(reduce_picture(f"p{i}", image, classes == 7, classes, side=side))
    return found


def learn(given: list[Reduced], **changes: int) -> dict[str, torch.Tensor]:
    arguments = {"rounds": 8, "surrogate_steps": 6, "noise_steps": 4, "batch_size": 4, **changes}
    options = MethodOptions(epsilon=16, epsilon_bg=16)
    return learn_noise(given, options=options, device=CPU, **arguments)  # type: ignore[arg-type]


def readability(given: list[Reduced], noises: dict[str, torch.Tensor]) -> float:
    """How much the noise differs between object and rest: a linear look at its local statistics.

    Held out: least squares on half of the pictures, accuracy on the others.
    """
    blur = torch.nn.AvgPool2d(5, stride=1, padding=2)
    rows, labels = [], []
    for one in given:
        noise = noises[one.key].float()
        shifted = noise * noise.roll((0, 1), (1, 2)), noise * noise.roll((1, 0), (1, 2))
        look = blur(torch.cat([noise, *shifted])[None])[0]
        look = torch.cat([look, torch.ones_like(look[:1])])
        counted = one.classes != VOID
        rows.append(look[:, counted].T)
        labels.append((one.classes[counted] == 7).float() * 2 - 1)
    half = len(given) // 2
    weights = torch.linalg.lstsq(torch.cat(rows[:half]), torch.cat(labels[:half])[:, None]).solution
    found = torch.cat(rows[half:]) @ weights > 0
    return float((found[:, 0] == (torch.cat(labels[half:]) > 0)).float().mean())


def test_the_noise_tells_where_the_object_is() -> None:
    given = pictures(8)
    noises = learn(given)
    assert all(noise.abs().max() <= 1 for noise in noises.values())
    rng = torch.Generator().manual_seed(0)
    random = {k: torch.randint(0, 2, n.shape, generator=rng) * 2.0 - 1 for k, n in noises.items()}
    assert readability(given, noises) > 0.85
    assert readability(given, random) < 0.8


def test_void_and_padding_carry_no_noise_of_their_own() -> None:
    """A picture of void alone gives the surrogate no gradient: its noise stays zero."""
    given = pictures(3)
    empty = torch.full((20, 32), float(VOID))
    given.append(reduce_picture("void", torch.rand(3, 20, 32), empty == 7, empty, side=32))
    noises = learn(given, rounds=1, batch_size=1)
    assert not noises["void"].any()
    assert all(noises[one.key].any() for one in given[:3])


def test_learning_is_repeatable_and_leaves_global_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = learn(pictures(3), rounds=1)
    assert torch.equal(torch.rand(3), expected)
    again = learn(pictures(3), rounds=1)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_picture_is_reduced_and_padded_with_void() -> None:
    classes = torch.from_numpy((make_mask(20, 40) > 0).astype(np.int32))
    image = torch.from_numpy(make_image(0, 20, 40, 1)).permute(2, 0, 1) / 255
    reduced = reduce_picture("a", image, classes == 1, classes, side=16)
    assert reduced.image.shape == (3, 16, 16)
    assert torch.equal(reduced.classes == VOID, torch.arange(16)[:, None].expand(16, 16) >= 8)
    assert not reduced.image[:, 8:].any()


def test_a_set_keeps_its_budget_and_a_stopped_run_goes_on_with_the_same_noise(
    tmp_path: Path,
) -> None:
    root = make_set(tmp_path / "in", 3)
    summary = generate(make_config(root, tmp_path / "a", *SMALL))
    assert summary.counts["protected"] == 3
    entries = entries_of(tmp_path / "a")
    assert all(e["linf_inside"] <= 8 and e["linf_outside"] <= 2 for e in entries.values())
    assert all(e["rms"] > 0.3 for e in entries.values())
    before = tree_bytes(tmp_path / "a")
    (tmp_path / "a/001.png").unlink()
    generate(make_config(root, tmp_path / "a", *SMALL))
    assert tree_bytes(tmp_path / "a") == before
    generate(make_config(root, tmp_path / "b", *SMALL, "run.batch_size=3"))
    assert tree_bytes(tmp_path / "b") == before
    assert LEARNT_NOISE in before


def test_another_list_or_too_long_a_one_is_refused(tmp_path: Path) -> None:
    root, out = make_set(tmp_path / "in", 3), tmp_path / "out"
    generate(make_config(root, out, *SMALL, "run.limit=2"))
    with pytest.raises(UserError, match=r"em\.list"):
        generate(make_config(root, out, *SMALL))
    with pytest.raises(UserError, match=r"em\.max_images=3"):
        generate(make_config(root, tmp_path / "b", *SMALL, "em.max_images=2"))
    with pytest.raises(UserError, match="multiple of 4"):
        make_config(root, out, "em.size=18")
