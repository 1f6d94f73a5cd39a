"""The pause in which numba compiles is announced with a bar, once, and not as a warning."""
import os
import subprocess
import sys

import pytest

from fastai_actstats.kernels.announce import Announcer, announced

FOLD = """
import torch
from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.dispatch import fold
from fastai_actstats.kernels.eager import empty
fold(torch.randn(10), empty(bins=Bins()), Bins(), 'cpu')"""

@pytest.mark.slow
def test_compiling_is_announced_the_first_time_only(tmp_path):
    pytest.importorskip('numba')
    env = dict(os.environ, NUMBA_CACHE_DIR=str(tmp_path))
    first, second = (subprocess.run([sys.executable, '-c', FOLD], capture_output=True, text=True, env=env, check=True)
                     for _ in range(2))
    assert 'compiling, the first time only' in first.stdout and '100.00% [16/16' in first.stdout
    assert (first.stderr, second.stdout, second.stderr) == ('', '', '')

def test_a_bar_that_cannot_be_shown_ends_nothing(monkeypatch):
    nb = pytest.importorskip('numba')
    def fails(*args, **kwargs): raise OSError("no console")
    monkeypatch.setattr('fastprogress.fastprogress.progress_bar', fails)
    with announced() as announcer:
        twice = nb.njit(lambda x: 2*x)
        assert twice(2.) == 4
    assert announcer.done and announcer.bar is None and isinstance(announcer, Announcer)
