"""Logs, progress and metrics as a run leaves them."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from unseg.engine.metric_log import MetricLog
from unseg.utils.logging import Progress, setup_logging, setup_messages


def read_lines(run_dir) -> list[dict]:
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


def test_scalars_are_one_valid_json_line_a_call(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        log.scalars(1, {"train/loss": 0.5, "train/lr": 1})
        log.scalars(2, {"train/loss": float("nan")})
    assert read_lines(tmp_path) == [
        {"step": 1, "train/loss": 0.5, "train/lr": 1.0},
        {"step": 2, "train/loss": None},
    ]


def test_tensorboard_gets_the_same_names(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricLog(tmp_path) as log:
        log.scalars(3, {"train/loss": 0.5})
        log.image(3, "samples", np.zeros((4, 6, 3), np.uint8))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.5)]
    assert events.Tags()["images"] == ["samples"]


def test_a_continued_run_holds_every_step_once(tmp_path):
    with MetricLog(tmp_path, tensorboard=False) as log:
        for step in range(5):
            log.scalars(step, {"a": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "a"')  # the process died here
    with MetricLog(tmp_path, tensorboard=False, resume_step=2) as log:
        log.scalars(3, {"a": 30})
    assert [(r["step"], r["a"]) for r in read_lines(tmp_path)] == [(0, 0), (1, 1), (2, 2), (3, 30)]


def test_a_disabled_log_writes_nothing(tmp_path):
    log = MetricLog(tmp_path / "run", enabled=False)
    log.scalars(1, {"a": 1})
    log.image(1, "b", np.zeros((1, 1, 3), np.uint8))
    log.close()
    assert not (tmp_path / "run").exists()


def test_rank_0_writes_the_file_and_others_only_warn(tmp_path, capsys):
    logger = logging.getLogger("unseg.test")
    setup_logging(tmp_path / "run" / "train.log")
    setup_logging(tmp_path / "run" / "train.log")
    logger.info("hello")
    assert (tmp_path / "run" / "train.log").read_text().count("hello") == 1
    assert capsys.readouterr().err.count("hello") == 1
    setup_logging(tmp_path / "other.log", rank=1)
    logger.info("quiet")
    logger.warning("loud")
    captured = capsys.readouterr().err
    assert "quiet" not in captured
    assert "[rank 1]" in captured
    assert not (tmp_path / "other.log").exists()


def test_commands_for_people_get_warnings_alone_and_without_prefixes(capsys):
    logger = logging.getLogger("unseg.test")
    setup_messages()
    logger.info("servers want to know")
    logger.warning("the disk is probably too small")
    assert capsys.readouterr().err == "warning: the disk is probably too small\n"
    setup_logging()
    logger.info("a server again")
    assert "I unseg.test: a server again" in capsys.readouterr().err


def test_progress_reports_speed_and_remaining_time(caplog, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("unseg.utils.logging.time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, "unseg"), Progress(500, "protect", every=10) as progress:
        for _ in range(120):
            now[0] += 0.5
            progress.update()
    assert caplog.messages[0] == "protect 20/500 (4 %), 2.00 images/s, 4:00 left"
    assert caplog.messages[-1] == "protect 120/500 (24 %), 2.00 images/s, 3:10 left"
    assert len(caplog.messages) == 7


def test_other_ranks_show_no_progress(caplog):
    with caplog.at_level(logging.INFO, "unseg"), Progress(2, "x", rank=1, every=0) as progress:
        progress.update()
    assert caplog.messages == []
