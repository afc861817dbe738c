"""Runs an evaluation: batches, controls, likelihood ranking, predictions files, resume."""
