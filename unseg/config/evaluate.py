"""Typed configuration of an evaluation grid (`unseg evaluate CONFIG`)."""

from __future__ import annotations
