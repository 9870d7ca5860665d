"""Weight files of each kind, and how their tensors reach a model."""
