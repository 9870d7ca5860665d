"""Training: the bilevel game, its loop, its checkpoints and how it is watched."""
