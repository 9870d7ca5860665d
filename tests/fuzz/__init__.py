"""Damaged pictures by the thousand: `python -m tests.fuzz --files 10000 --seed 1`.

`pictures` makes a file of every format and mode, `mutations` damages it, `child` protects a folder
of such files within bounds, `check` reads what was written again. Case i of a seed is always the
same file, given the same libraries.
"""
