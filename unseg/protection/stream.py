"""Protecting a data set: decode ahead, one batched forward pass, compose, write behind.

The list is cut into groups of one batch; group g belongs to rank g mod world_size. Threads decode
the next groups while the model runs and encode the last ones after it; every queue is bounded, so
memory does not depend on the length of the list (but for its names, about 1 kB an image). Only the
main thread touches the manifest, and it writes a line only after the file is complete.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unseg.data.annotations.base import Item
from unseg.io.files import FileContent, sha256_file
from unseg.protection.compose import protected_pixels
from unseg.protection.failures import reason_of
from unseg.protection.methods import full_size_noise
from unseg.protection.noise_maker import PromptedImage
from unseg.protection.plan import Plan
from unseg.protection.reading.item import Subject
from unseg.protection.writing.manifest import FAILED, PartWriter
from unseg.protection.writing.writer import WriteJob, write_protected
from unseg.utils.errors import UserError
from unseg.utils.seed import derive_seed

GROUPS_AHEAD = 2
_PARTNERS_TRIED = 8
KEPT = "kept"
"""Outcome of an image that an earlier run has finished and that has not changed since."""


class StoppedError(UserError):
    """An image failed and the run was asked to stop there."""


@dataclass(frozen=True)
class ImageRead:
    """What reading one image came to.

    Attributes:
        item: the image.
        kept: an earlier run has finished it.
        subject: the image, where it is to be written.
        noise_rows: image and prompts whose noise it gets; empty for methods without a generator.
        input_sha256: SHA-256 of the image's file, where it could be read.
        original: that file, where nothing in it is protected.
        failure: why it cannot be protected.
        seconds: time spent.
    """

    item: Item
    kept: bool = False
    subject: Subject | None = None
    noise_rows: tuple[PromptedImage, ...] = ()
    input_sha256: str | None = None
    original: FileContent | None = None
    failure: str | None = None
    seconds: float = 0.0


TakeEntry = Callable[[dict[str, Any]], None]


def protect_items(plan: Plan, record: TakeEntry) -> None:
    """Protect this rank's share of the list.

    Args:
        plan: what to do.
        record: called from this thread with the manifest entry of each image, in order, after its
            file is complete; with `{"key", "status": "kept"}` for what was done before.

    Raises:
        StoppedError: an image failed and `run.fail_fast` is set.
        UserError: the manifest cannot be written.
    """
    run = plan.config.run
    decoders = ThreadPoolExecutor(run.decode_workers, "decode")
    encoders = ThreadPoolExecutor(run.encode_workers, "encode")
    writing: deque[Future[dict[str, Any]]] = deque()

    def finish_one() -> None:
        entry = writing.popleft().result()
        record(entry)
        if run.fail_fast and entry["status"] == FAILED:
            raise StoppedError(f"{entry['reason']} (stopped by run.fail_fast=true)")

    try:
        for group in _decoded_groups(plan, decoders):
            for task in _tasks(plan, group):
                writing.append(encoders.submit(task))
                while len(writing) > 2 * run.encode_workers:
                    finish_one()
        while writing:
            finish_one()
    finally:
        decoders.shutdown(cancel_futures=True)
        encoders.shutdown(cancel_futures=True)


def record_to(part: PartWriter, then: TakeEntry) -> TakeEntry:
    """A `record` that appends to a manifest and then reports."""

    def record(entry: dict[str, Any]) -> None:
        if entry["status"] != KEPT:
            part.append(entry)
        then(entry)

    return record


def _decoded_groups(plan: Plan, pool: ThreadPoolExecutor) -> Iterator[list[ImageRead]]:
    """This rank's groups in order, read ahead by a bounded number."""
    pending: deque[list[Future[ImageRead]]] = deque()
    for start in _group_starts(plan):
        numbers = range(start, min(start + plan.batch_size, len(plan.items)))
        pending.append([pool.submit(_decode, plan, number) for number in numbers])
        if len(pending) > max(GROUPS_AHEAD, plan.config.run.decode_workers // plan.batch_size):
            yield [future.result() for future in pending.popleft()]
    while pending:
        yield [future.result() for future in pending.popleft()]


def _group_starts(plan: Plan) -> range:
    step = plan.batch_size * plan.world_size
    return range(plan.rank * plan.batch_size, len(plan.items), step)


def _decode(plan: Plan, number: int) -> ImageRead:
    """Read one image, unless an earlier run has finished it; never raises for a bad file."""
    item = plan.items[number]
    start = time.perf_counter()

    def result(**found: Any) -> ImageRead:
        return ImageRead(item=item, seconds=time.perf_counter() - start, **found)

    file: FileContent | None = None
    try:
        if _is_finished(plan, item):
            return result(kept=True)
        file = plan.reader.file(item)
        subject = plan.reader.read(item, file)
        rows: tuple[PromptedImage, ...] = ()
        if subject.has_work:
            rows = _noise_rows(plan, number, subject)
        elif plan.config.region.on_empty == "error":
            raise UserError(
                f"{item.key}: has no pixel to protect; set region.on_empty=copy to copy such images"
            )
        original = None if subject.has_work else file
        return result(subject=subject, noise_rows=rows, input_sha256=file.sha256, original=original)
    except Exception as error:
        return result(
            failure=reason_of(item.key, error), input_sha256=file.sha256 if file else None
        )


def _is_finished(plan: Plan, item: Item) -> bool:
    """Whether input and output are those of an earlier run's entry."""
    earlier = plan.earlier.get(item.key)
    if earlier is None or earlier.output != plan.layout.relative(item.key):
        return False
    if (earlier.input_sha256, earlier.label_sha256) != plan.reader.checksums(item):
        return False
    path = plan.layout.path(item.key)
    return path.is_file() and sha256_file(path) == earlier.output_sha256


def _noise_rows(plan: Plan, number: int, subject: Subject) -> tuple[PromptedImage, ...]:
    if plan.method.noise_from == "none":
        return ()
    if plan.method.noise_from == "partner":
        subject = _partner(plan, number)
    return tuple(PromptedImage(subject.picture.pixels, prompts) for prompts in subject.prompts)


def _partner(plan: Plan, number: int) -> Subject:
    """Another image with a region: always the same one, whatever runs beside it."""
    count = len(plan.items)
    offset = derive_seed(plan.config.run.seed, plan.config.method) % max(count - 1, 1)
    fault: Exception | None = None
    for step in range(min(count - 1, _PARTNERS_TRIED)):
        other = plan.items[(number + 1 + (offset + step) % (count - 1)) % count]
        try:
            subject = plan.reader.read(other)
        except Exception as error:
            fault = error
            continue
        if subject.prompts:
            return subject
    tried = min(count - 1, _PARTNERS_TRIED)
    raise UserError(
        f"{plan.items[number].key}: none of {tried} other images can lend it noise "
        f"({fault or 'nothing to protect in them'}); method={plan.config.method} needs good ones"
    )


def _tasks(plan: Plan, group: list[ImageRead]) -> Iterator[Callable[[], dict[str, Any]]]:
    """For each image of a group: what the encode workers have left to do."""
    singles = [one.noise_rows[0] if len(one.noise_rows) == 1 else None for one in group]
    start = time.perf_counter()
    noises = _noises(plan, singles)
    shared = (time.perf_counter() - start) / max(sum(s is not None for s in singles), 1)
    for slot, one in enumerate(group):
        if one.subject is None:
            yield partial(_without_picture, plan, one)
            continue
        start = time.perf_counter()
        noise = noises[slot]
        try:
            if isinstance(noise, Exception):
                raise noise
            pixels = _compose(plan, one, noise)
        except Exception as error:
            reason = reason_of(one.item.key, error, size=one.subject.picture.size)
            yield partial(_failure, plan, one.item, one.input_sha256, reason)
            continue
        seconds = one.seconds + time.perf_counter() - start
        seconds += shared if singles[slot] is not None else 0
        yield partial(_write, plan, one, [pixels], seconds)
        del pixels  # the list alone holds them


def _noises(plan: Plan, singles: list[PromptedImage | None]) -> Sequence[Tensor | Exception | None]:
    """Noise of the images with one prompt, or what one of them raised."""
    maker = plan.noise_maker
    if maker is None or not any(singles):
        return [None] * len(singles)
    try:
        return maker(singles)
    except Exception as error:
        if sum(single is not None for single in singles) == 1:
            return [None if single is None else error for single in singles]
    found: list[Tensor | Exception | None] = []
    for slot in range(len(singles)):  # one of them cannot be done; the others keep their places
        alone = [single if i == slot else None for i, single in enumerate(singles)]
        found.append(_noises(plan, alone)[slot])
    return found


def _compose(plan: Plan, one: ImageRead, noise: Tensor | None) -> Any:
    """Protected pixels, or None for an image with nothing to protect."""
    subject = one.subject
    assert subject is not None
    if not subject.has_work:
        return None
    if len(one.noise_rows) > 1:
        assert plan.noise_maker is not None
        noises = plan.noise_maker.of_one_image(one.noise_rows)
        masks = [torch.from_numpy(m).to(plan.device) for m in subject.instances]
        noise = noises[:1]
        is_whole = plan.method.options.key is not None  # a key signs the cells of one grid
        if plan.method.noise_from == "own" and len(masks) + 1 == len(noises) and not is_whole:
            noise = full_size_noise(
                noises, masks, size=subject.picture.size, enlarge=plan.noise_maker.carrier.enlarge
            )
    return protected_pixels(
        subject.picture,
        key=subject.key,
        region=subject.region,
        method=plan.method,
        noise=noise,
        device=plan.device,
        classes=subject.classes,
    )


def _write(plan: Plan, one: ImageRead, pixels: list[Any], seconds: float) -> dict[str, Any]:
    """The entry of a written picture; its pixels are taken out of the list, to be let go."""
    assert one.subject is not None
    assert one.input_sha256 is not None
    start = time.perf_counter()
    output = plan.config.output
    try:
        job = WriteJob(
            subject=one.subject,
            pixels=pixels.pop(),
            input_sha256=one.input_sha256,
            original=one.original,
            path=plan.layout.path(one.item.key),
            output=plan.layout.relative(one.item.key),
            format=plan.layout.format_of(one.item.key),
            quality=output.quality,
            bounds=plan.method.bounds,
            noise_path=plan.layout.noise_path(one.item.key) if output.noise else None,
        )
        entry = write_protected(job)
    except Exception as error:
        reason = reason_of(one.item.key, error, size=one.subject.picture.size)
        return _failure(plan, one.item, one.input_sha256, reason)
    entry["method"] = plan.config.method
    entry["seconds"] = round(seconds + time.perf_counter() - start, 4)
    return entry


def _without_picture(plan: Plan, one: ImageRead) -> dict[str, Any]:
    if one.kept:
        return {"key": one.item.key, "status": KEPT}
    return _failure(plan, one.item, one.input_sha256, one.failure or "unknown")


def _failure(plan: Plan, item: Item, input_sha256: str | None, reason: str) -> dict[str, Any]:
    """The entry of an image that failed; an output that an earlier run left is removed."""
    if item.fault is None and item.key in plan.earlier:
        plan.layout.path(item.key).unlink(missing_ok=True)
    entry = {"key": item.key, "status": FAILED, "reason": reason}
    if input_sha256 is not None:
        entry["input_sha256"] = input_sha256
    return entry
