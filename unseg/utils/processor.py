"""What the processor can do, as Linux names it."""

from __future__ import annotations

from pathlib import Path

BFLOAT16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
"""Without one of them a CPU emulates products of bfloat16, slower than those of float32."""


def instruction_sets(path: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of the first processor; empty where the system does not tell."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def bfloat16_instructions() -> tuple[str, ...]:
    """Those of `BFLOAT16_INSTRUCTIONS` that this processor has."""
    found = instruction_sets()
    return tuple(name for name in BFLOAT16_INSTRUCTIONS if name in found)
