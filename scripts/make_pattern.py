"""Write the pattern that is shipped as `pattern`: `python scripts/make_pattern.py FILE`."""

from __future__ import annotations

import sys

from unseg.commands._run import user_errors
from unseg.models.formats.pattern import save_pattern
from unseg.models.pattern import Pattern
from unseg.noise import Carrier
from unseg.utils.errors import UserError

CELLS = 24
"""On the longer side: the size that ImageNet features read best on training pictures
(docs/METHOD.md, "5. Generation")."""
CARRIER = "opponent, sharp"


@user_errors
def main(argv: list[str]) -> int:
    """Write it."""
    if len(argv) != 1:
        raise UserError("usage: python scripts/make_pattern.py FILE")
    save_pattern(Pattern.checks(CELLS, Carrier.parse(CARRIER)), argv[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
