"""Accuracy, time and pruning of a network."""

from yolop import quiet  # noqa: F401 (sets what ultralytics and the runtimes need before they are imported)
