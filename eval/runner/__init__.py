"""Asking a model: batches, controls, likelihood ranking, predictions files, resume."""
