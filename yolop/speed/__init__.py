"""Beyond the paper: what turns zeros, and a runtime, into speed."""

from yolop import quiet  # noqa: F401 (sets what ultralytics and the runtimes need before they are imported)
