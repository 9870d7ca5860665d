"""Configuration: types, bounds, and every fault named at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from unseg.commands._run import config_command, user_errors
from unseg.config.describe import describe, field_notes
from unseg.config.load import bounded, from_dict, has_key, load_config, to_dict, to_yaml
from unseg.utils.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    epsilon: float = bounded(1.0, low=0, high=255)
    """Bound inside the object, in grey levels."""
    epsilon_bg: float = bounded(0.25, low=0, high=255)

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.epsilon_bg > self.epsilon:
            yield "epsilon_bg", f"must be <= noise.epsilon ({self.epsilon:g})"


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    name: str
    weight: float = bounded(1.0, low=0)


@dataclass(frozen=True, kw_only=True)
class ExampleConfig:
    """A schema with one field of every kind."""

    seed: int
    readout: Literal["noise_tokens", "official"] = "noise_tokens"
    lr: float = bounded(1e-4, low=0, high=1)
    amp: bool = False
    limit: int | None = None
    device: Literal["auto"] | int = "auto"
    betas: tuple[float, float] = (0.9, 0.999)
    scales: tuple[float, ...] = bounded((1.0,), low=0.1, high=2)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    validation: NoiseConfig | None = None
    parts: tuple[PartConfig, ...] = ()
    models: dict[str, PartConfig] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    folder: Path = Path("data")
    resume: bool = False


def load(text: str, *overrides: str, tmp_path: Path) -> ExampleConfig:
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(ExampleConfig, path, overrides)


def faults(text: str, *overrides: str, tmp_path: Path) -> list[str]:
    """The reported lines, with the file's folder left out."""
    with pytest.raises(ConfigError) as caught:
        load(text, *overrides, tmp_path=tmp_path)
    assert str(caught.value).splitlines() == caught.value.problems
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


def test_a_file_and_overrides_become_typed_values(tmp_path):
    text = """
    seed: 3
    lr: 1e-3
    betas: [0.5, 0.9]
    noise: {epsilon: 8, epsilon_bg: 2}
    parts: [{name: a}, {name: b, weight: 2}]
    models: {r50: {name: resnet50}}
    names: {7: road}
    folder: elsewhere
    """
    config = load(
        text, "noise.epsilon=4", "limit=5", "parts.1.weight=3", "amp=true", tmp_path=tmp_path
    )
    assert config == ExampleConfig(
        seed=3,
        lr=1e-3,
        betas=(0.5, 0.9),
        noise=NoiseConfig(epsilon=4, epsilon_bg=2),
        parts=(PartConfig(name="a"), PartConfig(name="b", weight=3.0)),
        models={"r50": PartConfig(name="resnet50")},
        names={7: "road"},
        folder=Path("elsewhere"),
        limit=5,
        amp=True,
    )
    assert type(config.noise.epsilon) is float


def test_a_saved_configuration_reads_back_equal(tmp_path):
    config = load("seed: 1", "parts=[{name: x}]", "names={3: tree}", tmp_path=tmp_path)
    assert load(to_yaml(config), tmp_path=tmp_path) == config
    assert from_dict(ExampleConfig, to_dict(config), source="checkpoint") == config


def test_a_stored_configuration_is_checked_like_a_file():
    values = to_dict(ExampleConfig(seed=1)) | {"noise": {"epsilon": 1, "epsilon_bg": 3}}
    with pytest.raises(ConfigError) as caught:
        from_dict(ExampleConfig, values, source="run.pth")
    assert caught.value.problems == [
        "run.pth: noise.epsilon_bg=3: must be <= noise.epsilon (1)",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("noise.epsilon_bg=3", "override noise.epsilon_bg=3: must be <= noise.epsilon (1)"),
        ("sed=3", "override sed=3: unknown key; did you mean 'seed'?"),
        ("noise.epsilom=3", "override noise.epsilom=3: unknown key; did you mean 'epsilon'?"),
        ("epsilon_bg=0", "override epsilon_bg=0: unknown key; did you mean 'noise.epsilon_bg'?"),
        ("seed=1.5", "override seed=1.5: must be a whole number"),
        ("seed=", "override seed=None: must be a whole number"),
        ("seed=true", "override seed=True: must be a whole number"),
        ("lr=fast", "override lr=fast: must be a number"),
        ("lr=.nan", "override lr=nan: must be a number"),
        ("lr=2", "override lr=2: must be between 0 and 1"),
        ("scales=[1,3]", "override scales=[1, 3]: must be between 0.1 and 2"),
        ("amp=1", "override amp=1: must be true or false"),
        ("limit=many", "override limit=many: must be a whole number"),
        ("device=best", "override device=best: must be one of auto or a whole number"),
        (
            "readout=oficial",
            "override readout=oficial: must be one of noise_tokens, official;"
            " did you mean 'official'?",
        ),
        (
            "readout=off",
            "override readout=False: must be one of noise_tokens, official"
            " (quote it: YAML reads a bare on, off, yes or no as true or false)",
        ),
        ("betas=[1]", "override betas=[1]: must be a list of 2"),
        ("betas=0.9", "override betas=0.9: must be a list"),
        ("betas=[0.9,x]", "override betas.1=x: must be a number"),
        ("noise=3", "override noise=3: must be a section of keys"),
        ("validation.epsilon=-1", "override validation.epsilon=-1: must be between 0 and 255"),
        ("parts=[{weight: 2}]", "override parts.0.name: is required and has no default; set it"),
        (
            "parts=[{name: a, wight: 2}]",
            "override parts.0.wight=2: unknown key; did you mean 'weight'?",
        ),
        (
            "models.a={name: b, size: 1}",
            "override models.a.size=1: unknown key; known keys: name, weight",
        ),
        ("noise.epsilon=8/255", "override noise.epsilon=8/255: must be a number"),
        ("folder=${oc.env:HOME}", "interpolation is not supported; write the value"),
        ("seed", "override 'seed': write it as dotted.key=value"),
        ("=3", "override '=3': write it as dotted.key=value"),
        ("a..b=3", "override 'a..b=3': write it as dotted.key=value"),
        ("betas=[1", "override betas=[1: "),
    ],
)
def test_each_mistake_is_one_line_that_names_it(override, line, tmp_path):
    found = faults("seed: 1", override, tmp_path=tmp_path)
    assert len(found) == 1
    assert line in found[0]
    if not line.endswith((": ", "value")):
        assert found[0] == line


def test_all_problems_of_file_and_overrides_are_reported_at_once(tmp_path):
    text = """
    lrr: 1
    betas: [a, 0.9]
    noise: {epsilon: 1, epsilon_bg: 2}
    """
    assert faults(text, "amp=maybe", tmp_path=tmp_path) == [
        "example.yaml: lrr=1: unknown key; did you mean 'lr'?",
        "example.yaml: seed: is required and has no default; set it",
        "override amp=maybe: must be true or false",
        "example.yaml: betas.0=a: must be a number",
        "example.yaml: noise.epsilon_bg=2: must be <= noise.epsilon (1)",
    ]


@pytest.mark.parametrize("written", ["1_000", "1e3", "1000"])
def test_whole_numbers_may_be_written_in_any_notation(written, tmp_path):
    config = load(f"seed: {written}", tmp_path=tmp_path)
    assert config.seed == 1000
    assert type(config.seed) is int


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must hold `key: value` pairs"),
        ("seed: [", "not readable as YAML"),
        ("seed: 1\nseed: 2", "not readable as YAML"),
        ("seed: ???", "seed: is required; set it"),
        ("seed: ${lr}", "interpolation is not supported"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(text, message, tmp_path):
    (line,) = faults(text, tmp_path=tmp_path)
    assert line.startswith("example.yaml: ")
    assert message in line


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such configuration file"):
        load_config(ExampleConfig, tmp_path / "nowhere.yaml")


def test_a_default_section_that_must_be_filled_in_is_reported():
    @dataclass(frozen=True, kw_only=True)
    class Outer:
        noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(epsilon=1, epsilon_bg=2))

    with pytest.raises(ConfigError, match=r"defaults: noise.epsilon_bg: must be <="):
        from_dict(Outer, {}, source="defaults")


def test_has_key_knows_sections_and_optional_ones():
    assert has_key(ExampleConfig, "noise.epsilon")
    assert has_key(ExampleConfig, "validation.epsilon_bg")
    assert not has_key(ExampleConfig, "noise.lr")
    assert not has_key(ExampleConfig, "epsilon")


def test_help_lists_each_key_with_default_and_note():
    text = describe(ExampleConfig)
    assert "  seed (required)" in text
    assert "  noise.epsilon = 1.0\n      Bound inside the object, in grey levels." in text
    assert "  parts.N.weight = 1.0" in text
    assert field_notes(NoiseConfig) == {"epsilon": "Bound inside the object, in grey levels."}
    assert all(f.name in text for f in dataclasses.fields(ExampleConfig))


@user_errors
def command(argv=None) -> int:
    config = config_command(argv, ExampleConfig, prog="example", doc="Run an example.")
    return 0 if config is None else config.seed


@pytest.fixture
def config_path(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text("seed: 7\n", encoding="utf-8")
    return str(path)


def test_a_command_gets_its_configuration(config_path):
    assert command([config_path]) == 7
    assert command([config_path, "seed=9", "amp=true"]) == 9
    assert command(["--resume", config_path, "seed=9"]) == 9


def test_a_bad_configuration_ends_a_command_with_2_and_one_line_a_problem(config_path, capsys):
    assert command([config_path, "lr=9", "noise.epsilon_bg=3"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "override lr=9: must be between 0 and 1",
        "override noise.epsilon_bg=3: must be <= noise.epsilon (1)",
    ]


def test_print_config_shows_the_resolved_values_and_stops(config_path, capsys, tmp_path):
    assert command([config_path, "noise.epsilon=8", "--resume", "--print-config"]) == 0
    printed = capsys.readouterr().out
    config = load(printed, tmp_path=tmp_path)
    assert (config.noise.epsilon, config.resume) == (8.0, True)


@pytest.mark.parametrize("argv", [[], ["--unknown"], ["missing.yaml"]])
def test_a_bad_call_ends_a_command_with_2(argv, capsys):
    assert command(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_help_shows_the_runbook_and_the_keys(capsys):
    assert command(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "Run an example." in printed
    assert "noise.epsilon_bg = 0.25" in printed
