"""The notebooks, run in order, and what goes with it."""

from yolop import quiet  # noqa: F401 (before matplotlib, for users without a home; kernels inherit what it sets)
