"""Write the report of an evaluation again, from whatever cells are finished.

unseg report work_dirs/evaluate/kvasir
unseg report work_dirs/evaluate/kvasir --print      # the Markdown on standard output
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unseg.commands._run import EXIT_DONE, user_errors
from unseg.config.evaluate import EvaluateConfig
from unseg.config.load import load_config
from unseg.utils.errors import UserError


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write `report.md`, `report.html` and the rows as data into a run directory."""
    parser = argparse.ArgumentParser(
        prog="unseg report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dir", metavar="DIR", help="run directory of unseg evaluate")
    parser.add_argument("--print", action="store_true", help="also print the Markdown")
    options = parser.parse_args(argv)
    config_path = Path(options.run_dir) / "config.yaml"
    if not config_path.is_file():
        raise UserError(f"{options.run_dir}: holds no config.yaml of unseg evaluate")
    # The folder may have been moved since.
    overrides = [f"run_dir={options.run_dir}"]
    config = load_config(EvaluateConfig, config_path, overrides)
    from unseg.victims.report.rows import write_rows
    from unseg.victims.report.write import write_report

    path = write_report(config)
    write_rows(config)
    print(path.read_text(encoding="utf-8") if options.print else path.with_suffix(".html"))
    return EXIT_DONE
