"""What tests of the page prove with: functions that a new process imports by their names."""

from __future__ import annotations

import threading
from typing import Any


def endless(job: Any, tell: Any) -> list[str]:
    """Does four tenths of the work and waits for its end."""
    tell(0, 10)
    tell(4, 10)
    threading.Event().wait()
    return []


def real_but_for_grey(job: Any, tell: Any) -> list[str]:
    """What `unseg demo` proves with; of `grey.png` it does not come to an end."""
    from unseg.commands.demo import prove_pictures

    prove = endless if job.marked[0][0].key == "grey.png" else prove_pictures
    return prove(job, tell)


def tiny(job: Any, tell: Any) -> list[str]:
    """The same with a tiny victim."""
    from unseg.commands.demo import prove_pictures
    from unseg.config.evaluate import RecipeConfig
    from unseg.victims.grid import prove as proving

    recipe = RecipeConfig(image_size=16, steps=3, batch_size=8, lr=3e-3)
    proving.VICTIMS = {"scratch": proving.ProofVictim("tiny", "unet_plain", "none", recipe)}
    return prove_pictures(job, tell)


def broken(job: Any, tell: Any) -> list[str]:
    """Is killed, as by a system without memory."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return []
