"""What a grid needs before it can run: its faults, what is missing, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unseg.config.dataset import DatasetConfig
from unseg.config.evaluate import CLEAN, FOLDER, EvaluateConfig
from unseg.config.typed import choice_message
from unseg.protection.methods import METHODS, NoiseKey
from unseg.protection.plan import method_problems
from unseg.utils.errors import UserError
from unseg.victims.data.defences import (
    TRAINING,
    alternatives,
    learnt_defences,
    needs_generator,
    parse_defence,
    training_defences,
)
from unseg.victims.data.splits import SPLITS
from unseg.victims.grid.cells import ASSETS, expand
from unseg.victims.grid.needs import need_lines
from unseg.victims.grid.protected_sets import generation_config
from unseg.victims.networks.registry import ARCHITECTURES


def check_grid(config: EvaluateConfig) -> None:
    """Faults that would stop every cell of a kind, before any work.

    Raises:
        UserError: an unknown defence, victim or method, or files that are not there.
    """
    problems = [*choice_problems(config), *missing_roots(config)]
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))


def choice_problems(config: EvaluateConfig) -> Iterator[str]:
    """Names that no registry knows, and victims that cannot do a data set's task."""
    yield from _defence_problems(config)
    for name, victim in config.victims.items():
        if victim.arch not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            yield f"victims.{name}.arch={victim.arch}: unknown; known are {known}"
    for block in config.grid:
        for data, name in ((d, v) for d in block.data for v in block.victims):
            entry = ARCHITECTURES.get(config.victims[name].arch)
            task = config.data[data].task
            if entry is not None and task not in entry.tasks:
                fit = ", ".join(a for a, e in ARCHITECTURES.items() if task in e.tasks)
                yield (
                    f"data.{data}.task={task}: victim {name} ({entry.title}) cannot be trained for "
                    f"it; those that can are {fit}"
                )
    yield from _batch_problems(config)
    yield from _method_problems(config)


def _defence_problems(config: EvaluateConfig) -> Iterator[str]:
    """Unknown defences, and those that miss what they assume."""
    written = [(block, text) for block in config.grid for text in block.defences]
    for block, defence in ((block, one) for block, text in written for one in alternatives(text)):
        try:
            parse_defence(defence)
        except UserError as error:
            yield str(error)
            continue
        if any(entry.needs_pairs for entry in learnt_defences(defence)):
            yield from (
                f"data.{name}.public: defence {defence} needs the data set of the trainer's pairs"
                for name in block.data
                if config.data[name].public is None
            )
        if needs_generator(defence):
            yield from (
                f"methods.{name}: defence {defence} runs the method again, which a folder cannot"
                for name in block.methods
                if name != CLEAN and config.methods[name].method == FOLDER
            )
        if any(TRAINING[name].needs_pretrained for name in training_defences(defence)):
            yield from (
                f"victims.{name}.weights=none: defence {defence} freezes what was trained before; "
                "set imagenet, library or path"
                for name in block.victims
                if config.victims[name].weights == "none"
            )


def _batch_problems(config: EvaluateConfig) -> Iterator[str]:
    """Batches that do not divide into equal parts, one for each process and pass."""
    for name in dict.fromkeys(v for block in config.grid for v in block.victims):
        recipe = config.victims[name].recipe
        parts = config.ranks_per_cell * recipe.accumulate
        if parts == 1:
            continue
        blocks = [block for block in config.grid if name in block.victims]
        defences = {one for b in blocks for d in b.defences for one in alternatives(d)}
        is_halved = any({"adversarial", "ddc_at"} & set(_trained(d)) for d in defences)
        parts *= 2 if is_halved else 1
        if recipe.batch_size % parts:
            half = " x 2, since adversarial training attacks half of each part" * is_halved
            yield (
                f"victims.{name}.recipe.batch_size={recipe.batch_size}: must be a multiple of "
                f"{parts} (ranks_per_cell x accumulate{half})"
            )


def _trained(defence: str) -> dict[str, float]:
    try:
        return training_defences(defence)
    except UserError:  # reported by itself
        return {}


def _method_problems(config: EvaluateConfig) -> Iterator[str]:
    """Unknown methods, and options that `unseg generate` or the method itself does not read."""
    for name, method in config.methods.items():
        if name == CLEAN or method.method == FOLDER:
            continue
        if method.method not in METHODS:
            accepted = choice_message(method.method, (*METHODS, FOLDER))
            yield f"methods.{name}.method={method.method}: {accepted}"
            continue
        try:
            protected = generation_config(
                method,
                name=name,
                budget=(method.epsilon, method.epsilon_bg),
                task="",
                dataset=DatasetConfig(format="folder", root="."),
                folder=Path(),
                device=config.device,
            )
        except UserError as error:
            yield from str(error).splitlines()
            continue
        yield from (f"methods.{name}: {problem}" for problem in method_problems(protected))


def missing_roots(config: EvaluateConfig) -> Iterator[str]:
    """Folders, weights and keys that the grid names and that are not there."""
    for name, victim in config.victims.items():
        if victim.weights_path is not None and not Path(victim.weights_path).exists():
            yield f"victims.{name}.weights_path={victim.weights_path}: no such file"
    folders = {}
    for name, data in config.data.items():
        for split in SPLITS:
            dataset: DatasetConfig | None = getattr(data, split)
            folders[f"data.{name}.{split}.root"] = None if dataset is None else dataset.root
    for name, method in config.methods.items():
        folders[f"methods.{name}.train_root"] = method.train_root
        folders[f"methods.{name}.test_root"] = method.test_root
    for key, root in folders.items():
        if root is not None and not Path(root).is_dir():
            yield f"{key}={root}: no such folder"
    yield from _missing_keys(config)


def _missing_keys(config: EvaluateConfig) -> Iterator[str]:
    for name, method in config.methods.items():
        if "noise.key" in method.options:
            try:
                NoiseKey.read(str(method.options["noise.key"]))
            except UserError as error:
                yield f"methods.{name}: {error}"


def _missing_parts(config: EvaluateConfig) -> Iterator[str]:
    """What lacks inside data folders that are there, and generators that are not."""
    for name, data in config.data.items():
        for split in SPLITS:
            dataset: DatasetConfig | None = getattr(data, split)
            if dataset is None or not Path(dataset.root).is_dir():
                continue
            places = [(k, getattr(dataset, k)) for k in ("images", "labels", "annotations")]
            places.append(("list_file", dataset.list_file))
            places += [(f"parts.{i}.images", p.images) for i, p in enumerate(dataset.parts)]
            for key, place in places:
                if place is not None and not (Path(dataset.root) / place).exists():
                    yield f"data.{name}.{split}.{key}={place}: not in {dataset.root}"
    for name, method in config.methods.items():
        facts = METHODS.get(method.method)
        has_grid = "noise.grid" in method.options
        if facts is None or not facts.needs_generator(has_grid=has_grid):
            continue
        generator = method.generator or "default"
        if not Path(generator).is_file() and not (ASSETS / f"{generator}.safetensors").is_file():
            yield f"methods.{name}.generator={generator}: no such file, and no shipped generator"


def plan_lines(config: EvaluateConfig) -> list[str]:
    """What a run would do and cost, and what it lacks, as lines for a terminal.

    Raises:
        UserError: names that no registry knows.
    """
    faults = list(dict.fromkeys(choice_problems(config)))
    if faults:
        raise UserError("\n".join(faults))
    cells = expand(config)
    lines = [f"{config.title}: {len(cells)} cells in {config.run_dir}"]
    hours, cpu_hours = config.expected_gpu_hours, config.expected_cpu_hours
    if cpu_hours is not None:
        lines.append(f"expected hours of one CPU core: {cpu_hours:g}")
    if hours is not None or cpu_hours is None:
        lines.append(f"expected GPU hours: {'not stated' if hours is None else f'{hours:g}'}")
    downloads = sorted(
        ARCHITECTURES[v.arch].title for v in config.victims.values() if v.weights == "library"
    )
    lines += [f"downloads weights of: {title}" for title in downloads]
    lines += need_lines(config)
    missing = [*missing_roots(config), *_missing_parts(config)]
    lines += [f"missing: {line}" for line in missing]
    lines.append(f"missing in all: {len(missing)}" if missing else "nothing is missing")
    return lines
