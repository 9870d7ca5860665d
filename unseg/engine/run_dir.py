"""A run directory: where its run goes on, what it is of, and the loop in it to the end."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import unseg
from unseg.config.load import to_dict, to_yaml
from unseg.config.method import NOT_METHOD, method_differences
from unseg.engine.checkpoint import CheckpointFolder, check_fields, load_checkpoint, restoring
from unseg.engine.datasets import Loaders
from unseg.engine.metric_log import MetricLog
from unseg.engine.trainer import Trainer
from unseg.io.files import atomic_write
from unseg.types import Phase
from unseg.utils import distributed
from unseg.utils.errors import UserError
from unseg.utils.logging import setup_logging
from unseg.utils.provenance import package_versions

_log = logging.getLogger(__name__)

_NEEDED: dict[str, type] = {
    "config": dict,
    "progress.step": int,
    "provenance.samples_sha256": str,
    "provenance.num_samples": int,
    "optimizers": dict,
    "rng.cpu": torch.Tensor,
}
"""What a run continues from, by dotted key of its checkpoint, beside its players."""

BuildTrainer = Callable[[MetricLog, dict[str, Any]], Trainer]
"""Where numbers go, and what every checkpoint says of the run -> the loop."""


@dataclass(frozen=True)
class RunDir:
    """The directory of a run that begins or goes on.

    Attributes:
        path: the directory.
        config: the run's configuration, any schema.
        checkpoints: its checkpoints.
        start_path: the checkpoint to continue from; empty to begin.
        content: what it holds, or None.
    """

    path: Path
    config: Any
    checkpoints: CheckpointFolder
    start_path: str | Path
    content: dict[str, Any] | None

    def fit(
        self, build: BuildTrainer, loaders: Loaders, device: torch.device, *, tensorboard: bool
    ) -> tuple[Trainer, bool]:
        """The loop after its run, and whether that came to its end; False where a signal asked.

        Raises:
            UserError: the checkpoint was trained on other data, or does not fit.
        """
        content = self.content
        origin = provenance(loaders, distributed.world_size())
        identity = {"config": to_dict(self.config), "provenance": origin}
        if content is not None:
            _check_same_data(content, origin)
        if distributed.is_main():
            _describe_run(self.config, self.path, origin, device)
        with MetricLog(
            self.path,
            tensorboard=tensorboard,
            resume_step=content["progress"]["step"] if content else 0,
            enabled=distributed.is_main(),
        ) as metrics:
            trainer = build(metrics, identity)
            if content is not None:
                with restoring(self.start_path):
                    trainer.restore(content)
                _log.info("continues at step %d of %d", trainer.progress.step, trainer.pace.steps)
            is_complete = trainer.fit()
        loaders.report_skipped(self.path)
        return trainer, is_complete


def open_run_dir(
    config: Any,
    path: Path,
    *,
    kind: str,
    players: tuple[Phase, ...],
    keep_last: int = 2,
    resume_from: str | None = None,
    must_resume: bool = False,
    free: tuple[str, ...] = NOT_METHOD,
) -> RunDir:
    """Find where a run goes on, and begin its log.

    Args:
        config: the run's configuration.
        path: the directory, which need not exist.
        kind: of its checkpoints, see `unseg.models.weights`.
        players: who must be in them.
        keep_last: newest checkpoints kept.
        resume_from: checkpoint to continue from where the directory has none.
        must_resume: refuse to begin.
        free: keys of the configuration that may differ from the checkpoint's.

    Raises:
        UserError: the checkpoint belongs to another method, or there is none although one was
            asked for.
    """
    checkpoints = CheckpointFolder(path / "checkpoints", keep_last=keep_last)
    start = checkpoints.latest() or resume_from or ""
    if must_resume and not start:
        raise UserError(
            f"{checkpoints.folder}: holds no checkpoint to continue from; leave --resume away "
            "to begin, or name one with resume_from"
        )
    content = None
    if start:
        content = load_checkpoint(start)
        _check_content(content, config, start, kind, players, free)
    setup_logging(path / "train.log", distributed.rank())
    if distributed.is_main():
        checkpoints.remove_unfinished()
    return RunDir(path, config, checkpoints, start, content)


def _check_content(
    content: dict[str, Any],
    config: Any,
    path: str | Path,
    kind: str,
    players: tuple[Phase, ...],
    free: tuple[str, ...],
) -> None:
    """Refuse a checkpoint that is of another kind, incomplete, or of another method."""
    found = content.get("kind", kind)
    if found != kind:
        raise UserError(f"{path}: is a checkpoint of kind {found!r}; give the run another name")
    check_fields(content, {**_NEEDED, **{player.value: dict for player in players}}, path)
    differences = method_differences(content["config"], to_dict(config), free=free)
    if differences:
        raise UserError(
            f"{path}: was trained under another method: {'; '.join(differences)}. "
            "Give the run another name, or restore these keys"
        )


def provenance(loaders: Loaders, world_size: int) -> dict[str, Any]:
    """Where a checkpoint comes from."""
    names = "\n".join(loaders.train_names)
    return {
        "unseg": unseg.__version__,
        "torch": str(torch.__version__),  # a plain text, or the checkpoint would not load safely
        "world_size": world_size,
        "num_samples": len(loaders.train_names),
        "samples_sha256": hashlib.sha256(names.encode()).hexdigest(),
    }


def _check_same_data(content: dict[str, Any], now: dict[str, Any]) -> None:
    then = content["provenance"]
    if then["samples_sha256"] != now["samples_sha256"]:
        raise UserError(
            f"data: the checkpoint was trained on {then['num_samples']} samples and there are "
            f"{now['num_samples']} now, or their names differ; restore the data or give the run "
            "another name"
        )


def _describe_run(config: Any, run_dir: Path, origin: dict[str, Any], device: torch.device) -> None:
    """Write config.yaml and environment.json."""
    with atomic_write(run_dir / "config.yaml", "w") as file:
        file.write(to_yaml(config))
    environment = {
        **origin,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }
    with atomic_write(run_dir / "environment.json", "w") as file:
        json.dump(environment, file, indent=2)
