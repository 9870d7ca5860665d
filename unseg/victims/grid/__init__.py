"""The grid of cells: what it needs, what is done, and who works on what."""
