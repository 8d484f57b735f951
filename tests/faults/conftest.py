"""Faults that are really made, and undone: of nodes, of Slurm's daemons, of its commands."""

from __future__ import annotations

from slurm_fixtures import executor, new_executor, shared_directory

__all__ = ["executor", "new_executor", "shared_directory"]
