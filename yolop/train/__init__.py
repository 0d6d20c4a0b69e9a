"""Training: ultralytics' trainer, resumed and with zeros."""

from yolop import quiet  # noqa: F401 (sets what ultralytics and the runtimes need before they are imported)
