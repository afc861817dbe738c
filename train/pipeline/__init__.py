"""Stages and recipes: run directories, reuse of finished stages, dry runs, listings of runs."""
