"""Scores as pure functions of records and predictions: intervals, tests, official rules, controls."""
