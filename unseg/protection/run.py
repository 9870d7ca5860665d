"""A whole generation run, from configuration to summary, on one process or many."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from unseg.config.generate import GenerateConfig
from unseg.config.load import to_yaml
from unseg.data.annotations import AnnotationSource
from unseg.io.files import atomic_write_bytes, check_writable, remove_temporary
from unseg.protection.methods import NoiseKey
from unseg.protection.plan import Plan, notes_on, prepare
from unseg.protection.settings import environment_of
from unseg.protection.stream import KEPT, protect_items, record_to
from unseg.protection.writing.manifest import (
    FAILED,
    PROTECTED,
    PartWriter,
    check_settings,
    finished,
    forget,
    join_parts,
    read_manifest,
    reserved,
)
from unseg.protection.writing.mirror import mirror
from unseg.protection.writing.other_files import write_other_files
from unseg.protection.writing.summary import Summary, summarise, write_contact_sheet, write_summary
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.logging import Progress

_log = logging.getLogger(__name__)

T = TypeVar("T")
PLANNED = "planned"
"""Count of a dry run: images that would be protected or copied."""


def generate(
    config: GenerateConfig,
    *,
    source: AnnotationSource | None = None,
    folders: Sequence[Path] | None = None,
    generator: Any = None,
    key: NoiseKey | None = None,
    on_start: Callable[[int], object] | None = None,
    on_entry: Callable[[dict[str, Any]], None] | None = None,
    looks_beside: bool = True,
) -> Summary:
    """Protect a data set and report; under `torchrun` every rank calls it.

    Args:
        config: the run's configuration.
        source: images and labels, where they are not those of `config.data`.
        folders: folders that the output must not lie in; None: those of `config.data`.
        generator: one that is loaded already.
        key: one that is read already, where it is not that of `config.noise.key`.
        on_start: called with the number of this rank's images, before the first of them.
        on_entry: also called with every manifest entry of this rank; who takes them shows how far
            the run is, and no bar or line of ours does.
        looks_beside: list what lies in the images' folders beside the images too.

    Returns:
        The figures over the whole list, the same on every rank.

    Raises:
        UserError: for what can be seen before the first image, and with `run.fail_fast`.
    """
    start = time.monotonic()
    plan = _together(
        lambda: prepare(
            config,
            source=source,
            folders=folders,
            generator=generator,
            key=key,
            looks_beside=looks_beside,
        )
    )
    folder = plan.layout.folder
    if not config.run.dry_run:
        _together(lambda: check_writable(folder))
    if distributed.is_main():
        for level, note in notes_on(plan):
            _log.log(level, "%s", note)
    if config.run.dry_run:
        return _dry_run(plan)
    with reserved(folder) if distributed.is_main() else nullcontext():
        _together(lambda: _begin(plan) if distributed.is_main() else None)
        if not config.run.restart:
            plan = replace(plan, earlier=finished(folder))
        if on_start is not None:
            on_start(len(plan.items) // plan.world_size)
        kept = _protect_share(plan, on_entry)
        total_kept = sum(distributed.all_gather_object(kept))
        summary = _together(
            lambda: _end(plan, total_kept, start) if distributed.is_main() else None
        )
        return cast(Summary, distributed.all_gather_object(summary)[0])


def _protect_share(plan: Plan, on_entry: Callable[[dict[str, Any]], None] | None) -> int:
    """Protect this rank's share; returns how many images were done before."""
    share = len(plan.items) // plan.world_size
    kept = Counter[str]()
    part = PartWriter(plan.layout.folder, plan.rank)
    progress = Progress(share, "protect", rank=plan.rank, is_shown=on_entry is None)

    def report(entry: dict[str, Any]) -> None:
        kept[entry["status"]] += 1
        progress.update()
        if on_entry is not None:
            on_entry(entry)

    try:
        protect_items(plan, record_to(part, report))
    finally:
        part.close()
        progress.close()
    return kept[KEPT]


def _begin(plan: Plan) -> None:
    """Rank 0, before the first image: clean up after dead runs, refuse to mix settings."""
    config, folder = plan.config, plan.layout.folder
    removed = remove_temporary(folder)
    if removed:
        _log.info("removed %d unfinished files of an earlier run", removed)
    join_parts(folder)
    check_settings(folder, plan.settings, replace=config.run.restart)
    if config.run.restart:
        forget(folder, (item.key for item in plan.items))
    atomic_write_bytes(folder / "config.yaml", to_yaml(config).encode())


def _end(plan: Plan, kept: int, start: float) -> Summary:
    """Rank 0, after the last image: one manifest, the mirror, the summary, the contact sheet."""
    folder, output = plan.layout.folder, plan.config.output
    join_parts(folder, [item.key for item in plan.items])
    others = list(plan.others)
    if output.layout == "mirror":
        done = mirror(plan.layout, plan.config.data, plan.items)
        _log.info("mirrored %d other files of %s", len(done), plan.config.data.root)
        base = PurePosixPath(plan.layout.base)
        named = {name for name, _ in done}
        others = [(n, what) for n, what in others if (base / n).as_posix() not in named] + done
    write_other_files(folder, others)
    summary = _summary(plan, kept, start)
    maker = plan.noise_maker
    environment = environment_of(
        plan.device,
        batch_size=plan.batch_size,
        is_bfloat16=maker is not None and maker.is_bfloat16,
    )
    write_summary(summary, settings=plan.settings, environment=environment)
    if output.contact_sheet:
        paths = {item.key: item.image_path for item in plan.items}
        shown = (
            (paths[entry["key"]], folder / entry["output"])
            for entry in read_manifest(folder)
            if entry["status"] == PROTECTED and entry["key"] in paths
        )
        limit = plan.method.bounds[0] if plan.method.bounds is not None else 8
        write_contact_sheet(folder, list(islice(shown, output.contact_sheet)), limit=limit)
    return summary


def _summary(plan: Plan, kept: int, start: float) -> Summary:
    """The figures of the list from the manifest on the disk."""
    folder = plan.layout.folder
    keys = {item.key for item in plan.items}
    listed = (entry for entry in read_manifest(folder) if entry["key"] in keys)
    seconds = time.monotonic() - start
    return summarise(folder, listed, total=len(plan.items), kept=kept, seconds=seconds)


def _dry_run(plan: Plan) -> Summary:
    """Count what would be done; images that are not there at all have failed already."""
    summary = Summary(folder=plan.layout.folder, total=len(plan.items))
    summary.beside.update(what for _, what in plan.others)
    for item in plan.items:
        reason = item.fault
        if reason is None and not item.image_path.is_file():
            reason = f"{item.image_path}: no such file"
        if reason is None:
            summary.counts[PLANNED] += 1
            continue
        summary.counts[FAILED] += 1
        if len(summary.failures) < 20:
            summary.failures.append((item.key, reason))
    return summary


def _together(step: Callable[[], T]) -> T:
    """Run a step on every rank; what one rank refuses, all refuse with the same words."""
    result, fault = None, None
    try:
        result = step()
    except UserError as error:
        fault = str(error)
    faults = [f for f in distributed.all_gather_object(fault) if f is not None]
    if faults:
        raise UserError(faults[0])
    return cast(T, result)
