"""The report of a grid: `report.md` with its figures, and one self-contained `report.html`."""

from __future__ import annotations

from pathlib import Path

from unseg.config.evaluate import EvaluateConfig
from unseg.io.files import atomic_write, atomic_write_bytes
from unseg.utils.errors import UserError
from unseg.victims.report.aggregate import collect
from unseg.victims.report.elements import NOTHING, Picture, method_title, victim_title
from unseg.victims.report.sections import sections

TEMPLATE = Path(__file__).parents[2] / "assets" / "report.html"


def write_report(config: EvaluateConfig) -> Path:
    """Write the report of whatever cells are done.

    Returns:
        Path of `report.md`; `report.html` lies beside it.

    Raises:
        UserError: no cell has a result yet, or the packages of the report are missing.
    """
    try:
        import jinja2
        import matplotlib as _  # noqa: F401 - missing must be said before any work
    except ImportError as error:
        raise UserError(
            f"the report needs the package {error.name!r}; install the extra: "
            "pip install 'unseg[eval]'"
        ) from error
    run_dir = Path(config.run_dir)
    found = list(sections(config))
    (run_dir / "figures").mkdir(parents=True, exist_ok=True)
    text = [f"# {config.title}"]
    for section in found:
        text += [f"## {section.heading}", *(part.markdown() for part in section.parts)]
        for part in section.parts:
            if isinstance(part, Picture):
                atomic_write_bytes(run_dir / "figures" / f"{part.name}.png", part.data)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(title=config.title, sections=found)
    atomic_write_bytes(run_dir / "report.html", page.encode())
    with atomic_write(run_dir / "report.md", "w") as file:
        file.write("\n\n".join(text) + "\n")
    return run_dir / "report.md"


def summary_lines(config: EvaluateConfig) -> list[str]:
    """The scores of all finished rows as aligned text for a terminal, in percent."""
    lines = [("data", "victim", "defence", "trained on", "clean test", "own protected test")]
    for row in collect(config)[0]:
        if row.selected is None:
            continue
        own = row.protected_test.percent() if row.protected_test else NOTHING
        names = (row.key.data, victim_title(config, row.key.victim), row.key.defence)
        lines.append((*names, method_title(config, row.key), row.selected.percent(), own))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = ("  ".join(f"{v:<{w}}" for v, w in zip(line, widths, strict=True)) for line in lines)
    return [line.rstrip() for line in aligned]
