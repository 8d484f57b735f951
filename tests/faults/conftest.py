"""Faults that are really made, and undone: of nodes, of Slurm's daemons, of its commands."""
