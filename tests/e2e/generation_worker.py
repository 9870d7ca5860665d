"""A warm process that forks a run for every line it reads; `test_generate_kills.py` uses it.

    python generation_worker.py ROOT OUT [key=value ...]

A line is empty or says, as JSON, at which event the run kills itself. Libraries and the generator
are loaded once, so that a run, and its death, costs milliseconds.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dying import Death, arm  # noqa: E402
from generate_cases import make_config, saturated_generator  # noqa: E402

from unseg.protection.run import generate  # noqa: E402


def main() -> None:
    # Not torch.set_num_threads: every new thread of a forked child would then ask torch for a pool
    # of threads that died in the fork, and sometimes fail. The environment sets OMP_NUM_THREADS=1.
    root, out, *overrides = sys.argv[1:]
    config = make_config(Path(root), Path(out), *overrides)
    generator = saturated_generator()
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                if line.strip():
                    arm(Death.parse(*json.loads(line)))
                code = generate(config, generator=generator).exit_code
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()
