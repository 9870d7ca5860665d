"""What every method of the registry states about itself, and that nothing else knows its name."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from generate_cases import make_config, make_image, make_mask, make_set, protect_set

from unseg.config.generate import GenerateConfig
from unseg.config.typed import dotted_keys
from unseg.protection.methods import METHODS, Canvas, MethodOptions
from unseg.protection.plan import method_problems, prepare
from unseg.utils.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[2] / "unseg"
SIZE = (40, 56)
OTHER_VALUES: dict[str, Any] = {
    "epsilon": 6.0, "epsilon_bg": 1.0, "seed": 43, "grid": 24, "tile": 3, "carrier": "opponent",
    "quality": 30, "psnr": 25.0, "patch": 8,
}  # fmt: skip
"""A value for each option of a method that is not its default."""


def canvas() -> Canvas:
    image = torch.from_numpy(make_image(3, *SIZE)).permute(2, 0, 1)[None] / 255
    region = torch.from_numpy(make_mask(*SIZE) > 0)[None, None]
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Canvas("a", image, region.float(), noise=noise, classes=region.int())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_states_its_facts(name: str) -> None:
    facts, method = METHODS[name], METHODS[name](MethodOptions(epsilon=7, epsilon_bg=3))
    assert 10 < len(facts.title) < 80
    assert "\n" not in facts.title
    assert facts.title not in [other.title for n, other in METHODS.items() if n != name]
    assert (method.bounds is not None) == facts.has_budget
    assert set(facts.reads) <= set(dotted_keys(GenerateConfig))
    assert ("noise.classes" in facts.reads) == facts.needs_classes
    assert facts.needs_generator(has_grid=True) == (facts.noise_from != "none")
    result = method(canvas())
    assert result.shape == (1, 3, *SIZE)
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    if method.bounds is not None:
        change = (result - canvas().image).abs() * 255
        inside = canvas().region.bool().expand_as(change)
        assert 0 < change[inside].max() <= method.bounds[0] + 1e-3
        assert 0 < change[~inside].max() <= method.bounds[1] + 1e-3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("option", OTHER_VALUES)
def test_what_changes_a_picture_is_a_setting_and_nothing_else_is(name: str, option: str) -> None:
    plain = MethodOptions(grid=16)
    other = replace(plain, **{option: OTHER_VALUES[option]})
    first, second = METHODS[name](plain), METHODS[name](other)
    is_changed = not torch.equal(first(canvas()), second(canvas()))
    if option in ("epsilon", "epsilon_bg", "seed"):  # settings of every run
        assert is_changed or not first.has_budget or option != "epsilon"
    else:
        assert is_changed == (first.settings != second.settings)


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_a_run_hold_those_of_its_method(name: str, tmp_path: Path) -> None:
    root, out = make_set(tmp_path / "in", 2), tmp_path / "out"
    assert protect_set(root, out, f"method={name}").counts["protected"] == 2
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert settings["method"] == name
    assert {"noise.epsilon", "noise.epsilon_bg", "run.seed", *METHODS[name].reads} <= set(settings)


@pytest.mark.parametrize("name", METHODS)
def test_options_of_methods_without_a_budget_are_refused_by_others(
    name: str, tmp_path: Path
) -> None:
    given = {"noise.psnr": 35.0, "noise.patch": 32}
    keys = [f"{key}={value}" for key, value in given.items()]
    config = make_config(tmp_path, tmp_path / "out", f"method={name}", *keys)
    problems = [problem.split(": ") for problem in method_problems(config)]
    unread = [f"{key}={value}" for key, value in given.items() if key not in METHODS[name].reads]
    assert [key for key, _ in problems] == unread
    assert all(message.endswith(f"alone, not by {name}") for _, message in problems)
    # A sweep over methods may share these.
    shared = [f"method={name}", "noise.grid=8", "noise.carrier=luma", "noise.classes=region"]
    assert not method_problems(make_config(tmp_path, tmp_path / "b", *shared))


def test_an_unknown_method_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "out", "method=randomsign")
    with pytest.raises(ConfigError, match=r"method=randomsign: must be one of .*'random_sign'\?"):
        prepare(config)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_described_for_people(name: str) -> None:
    assert f"`{name}`" in (PACKAGE.parent / "docs/EVALUATION.md").read_text(encoding="utf-8")


def test_no_other_module_names_a_method() -> None:
    """But the default of a generation, and words that are names of other things too."""
    compared = {
        name: re.compile(rf"method\S* *[=!]= *[\"']{name}[\"']|[\"']{name}[\"'] *[=!]= *\S*method")
        for name in ("unseg", "cuda")
    }
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent == PACKAGE / "protection" / "methods":
            continue
        text = path.read_text(encoding="utf-8")
        found += [(path.name, name) for name, pattern in compared.items() if pattern.search(text)]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and node.value in METHODS.keys() - compared.keys():
                found.append((path.name, node.value))
    assert not found
