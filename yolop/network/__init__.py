"""YOLOv5 v6: modules, head, weights."""

from yolop import quiet  # noqa: F401 (sets what ultralytics and the runtimes need before they are imported)
