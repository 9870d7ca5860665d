"""Calls in a child process that may use only so much memory and processor time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_LIMITS = """
import json, resource, sys
from unseg.utils.errors import UserError
{imports}
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {memory}, used + {memory}))
spent = resource.getrusage(resource.RUSAGE_SELF)
limit = int(spent.ru_utime + spent.ru_stime) + {seconds}
resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
for path in sys.argv[1:]:
    try:
        {call}
        refusal = None
    except UserError as error:
        refusal = str(error)
    print(json.dumps(refusal), flush=True)
"""


def refusals(
    imports: str,
    call: str,
    paths: Sequence[Path],
    *,
    memory: int = 400 << 20,
    seconds: int = 20,
) -> list[str | None]:
    """What a call says of each file, None where it takes the file; one child for all of them.

    Args:
        imports: statements before the limits begin; what is imported does not count.
        call: a call with `path`.
        paths: the files.
        memory: bytes of address space beyond what the imports took.
        seconds: of processor time, for all files together.
    """
    program = _LIMITS.format(imports=imports, call=call, memory=memory, seconds=seconds)
    child = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(found) == len(paths), f"{paths[len(found)]} ended the child: {child.stderr[-2000:]}"
    return found
