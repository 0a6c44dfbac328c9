"""Evaluation: rows of a dataset go through a metric and come out as scores, errors kept apart from both."""
