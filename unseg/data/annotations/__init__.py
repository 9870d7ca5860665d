"""Adapters: one per annotation format, chosen by `DatasetConfig.format`."""
