"""Typed configuration: dataclasses, YAML files, dotted overrides."""
