"""The compiled kernels: registers of any width, SiLU as exact as it says."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from yolop.speed import engine

NARROW = """
import sys, numba
numba.njit(lambda x: x + 1)(1)  # the compiler itself knows the real machine
import llvmlite.binding as llvm
llvm.get_host_cpu_features = lambda: dict.fromkeys(sys.argv[1:], True)
from support import agree, network
from yolop.speed import tiles
agree(network("p", 0.7), 64)
print(tiles.LANES)
"""


@pytest.mark.parametrize(("features", "lanes"), [(["avx2"], 8), ([], 4)])
def test_narrower_processors_compute_the_same(features, lanes, tmp_path):
    """With the registers of AVX2 and of ARM; what a machine has compiled for itself is left alone."""
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, "-c", NARROW, *features]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[-1] == str(lanes), done.stderr


def test_silu_is_as_exact_as_it_says():
    """From values that vanish to values that stay as they are; against double precision."""
    conv = nn.Conv2d(3, 3, 1, bias=False)
    conv.weight.data.copy_(torch.eye(3).view(3, 3, 1, 1))
    x = torch.linspace(-80, 100, 3 * 64 * 64).view(1, 3, 64, 64)
    y = engine.sparsify(nn.Sequential(conv, nn.SiLU()).eval(), 64, threads=1)(x).double().numpy()
    x = x.double().numpy()
    error = np.abs(y / (x / (1 + np.exp(-x))) - 1)
    assert error[x >= -16].max() < 1e-6 and error.max() < 4e-6
