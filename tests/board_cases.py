"""Rows of a leaderboard that nobody measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unseg.config.board import BoardRow
from unseg.config.load import from_dict
from unseg.victims.report.rows import ROWS, write_row

RUN = {"title": "a test", "command": "unseg evaluate a.yaml", "commit": "0" * 40}


def board_row(method: str, score: float, defence: str = "none", **changes: Any) -> BoardRow:
    """A measured row against a clean twin of 0.8."""
    is_clean = method == "clean"
    budget = {} if is_clean else {"epsilon": 8.0, "epsilon_bg": 2.0, "psnr": 36.5}
    values: dict[str, Any] = {
        "schema": 1,
        "id": f"polyps__{method}__unet__{defence}",
        "kind": "measured",
        "data": {"name": "polyps", "num_train": 8, "num_test": 4},
        "method": {"name": method, "title": f"{method} 8/2" if budget else method, **budget},
        "victim": {"name": "unet", "title": "U-Net", "recipe": {"steps": 4}},
        "defence": defence,
        "seeds": [0, 1],
        "selected": {"mean": score, "std": 0.01, "values": [score - 0.01, score + 0.01]},
        "peak": {"mean": score + 0.02},
        "clean": None if is_clean else {"mean": 0.8},
        "protection": None if is_clean else round((0.8 - score) / 0.8, 6),
        "curve": [[1, score / 2], [2, score]],
        "run": RUN,
        **changes,
    }
    return from_dict(BoardRow, values, source="test")


ROWS_OF_A_TEST = (
    board_row("clean", 0.8),
    board_row("loud", 0.0),
    board_row("loud", 0.7, "jpeg-75"),
    board_row("quiet", 0.2),
    board_row("quiet", 0.1, "jpeg-75"),
)


def write_board(folder: Path, *rows: BoardRow) -> Path:
    """A leaderboard's folder with these rows, not yet rendered."""
    (folder / ROWS).mkdir(parents=True)
    for row in rows or ROWS_OF_A_TEST:
        write_row(row, folder / ROWS)
    return folder
