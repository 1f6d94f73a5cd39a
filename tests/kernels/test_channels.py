"""The kernels that fill channels' rows: against numpy in float64, and the same counts whichever kernel."""
import math

import numpy as np
import pytest
import torch
from helpers import run_script

from fastai_actstats.kernels import channels, channels_cpu, channels_cuda
from fastai_actstats.kernels.channels import (
    ALIVE,
    COUNT,
    FIRST,
    M2,
    MAX,
    MEAN,
    MIN,
    NEAR_ZERO,
    NONFINITE,
    OVER,
    UNDER,
    by_channel,
    empty,
    fold_channels,
)

RELU, TANH = (2.**-149, math.inf), (-.97, .97)
EXACT = [COUNT, NONFINITE, NEAR_ZERO, UNDER, ALIVE, OVER, MIN, MAX]
KERNELS = dict(eager=channels, cpu=channels_cpu, cuda=channels_cuda)

def reference(x, axis, limits, eps=.05):
    "Rows in numpy, float64, of the float32 values"
    x = np.moveaxis(x.float().numpy(), axis, 0).reshape(x.shape[axis], -1)
    rows = []
    for v in x:
        f = v[np.isfinite(v)]
        low, high = np.float32(limits[0]), np.float32(limits[1])
        wide = f.astype(np.float64)
        rows.append([v.size, v.size - f.size, (np.abs(f) <= np.float32(eps)).sum(), (f < low).sum(),
                     ((f >= low) & (f <= high)).sum(), (f > high).sum(), wide.mean() if f.size else 0,
                     ((wide - wide.mean())**2).sum() if f.size else 0, f.min(initial=np.inf), math.inf,
                     f.max(initial=-np.inf), -math.inf])
    return torch.tensor(rows, dtype=torch.float64)

def close(rows, want):
    assert torch.equal(rows[:, EXACT], want[:, EXACT])
    n = (want[:, COUNT] - want[:, NONFINITE]).clamp(min=1)
    spread = (want[:, M2]/n).sqrt()
    off = (rows[:, MEAN] - want[:, MEAN]).abs()
    assert (off <= 1e-5*spread + 1e-7*want[:, MEAN].abs()).all(), off
    torch.testing.assert_close(rows[:, M2], want[:, M2], rtol=2e-5, atol=0)

def outputs():
    "Name → tensor and the axis of its channels: the layouts that there are, and what is hard to count"
    torch.manual_seed(0)
    x = torch.randn(6, 21, 9, 7)
    bad = torch.randn(5, 9, 80)
    bad.view(-1)[::13], bad.view(-1)[1::130], bad.view(-1)[2::131] = math.nan, math.inf, -math.inf
    bad[:, 3] = math.nan
    res = dict(first=(x.relu(), 1), last=(x.to(memory_format=torch.channels_last), 1),
               tokens=(torch.randn(4, 9, 70), 2), plain=(torch.randn(33, 70), 1), one=(torch.randn(3, 1, 5), 1),
               long=(torch.randn(2, 2, 1500), 1), short=(torch.randn(10, 65, 2, 2), 1),
               between=(torch.randn(4, 5, 6, 7), 2), nonfinite=(bad, 1), strided=(x[:, ::2, :, 1:5], 1),
               swapped=(x.transpose(1, 3), 3), expanded=(x[:1].expand(4, -1, -1, -1), 1),
               far=(torch.randn(8, 6, 50)*.1 + 1e6, 1), tiny=(torch.randn(8, 6, 50)*1e-30, 1),
               huge=(torch.randn(8, 6, 50)*1e30, 1), edges=(torch.tensor([[-.97, .97, 0., -0., 1e-45, .05]]), 0))
    yield from res.items()

@pytest.mark.parametrize('name,x,axis', [(n, *o) for n, o in outputs()], ids=lambda o: o if isinstance(o, str) else '')
@pytest.mark.parametrize('kernel', KERNELS)
def test_rows_equal_numpy(kernel, name, x, axis):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        if dtype is torch.float16 and name in ('far', 'huge', 'tiny'): continue
        x = x.to(dtype)
        for limits in (RELU, TANH) if dtype is torch.float32 else (TANH,):
            rows = empty(x.shape[axis])
            with np.errstate(all='ignore'):  # triton's interpreter computes with numpy
                for part in x.split(max(1, x.shape[0]//2)) if axis else [x]:
                    KERNELS[kernel].reduce_(by_channel(part, axis), rows, limits, .05)
            close(rows, reference(x, axis, limits))

@pytest.mark.parametrize('kernel', ['auto', 'eager', 'cpu'])
def test_whatever_can_be_folded(kernel):
    torch.manual_seed(0)
    for x in (torch.randn(4, 5, 6).double(), torch.randn(4, 5, 6).neg(), torch.randn(4, 5, 6)[:, :, ::2],
              torch._neg_view(torch.randn(4, 5, 6))):
        rows = empty(5)
        fold_channels(x, 1, rows, RELU, kernel=kernel)
        close(rows, reference(x.resolve_neg(), 1, RELU))
    with pytest.raises(TypeError, match='no dense tensor'): fold_channels(torch.arange(6).view(2, 3), 1, empty(3), RELU)
    rows = empty(3)
    fold_channels(torch.empty(0, 3), 1, rows, RELU)
    assert torch.equal(rows, empty(3))

def test_rows_merge_as_their_values_do():
    torch.manual_seed(0)
    x = torch.randn(9, 4, 10)
    parts = torch.stack([reference(p, 1, TANH) for p in x.split(3)])
    parts[1, :, FIRST], parts[2, :, FIRST] = 7, 4
    merged = channels.merge(parts)
    close(merged, reference(x, 1, TANH))
    assert (merged[:, FIRST] == 4).all()

def test_a_kernel_that_counts_otherwise_is_not_used():
    code = """
from fastai_actstats.kernels import channels, channels_cpu
real = channels_cpu.reduce_
def wrong(x, rows, limits, eps):
    real(x, rows, limits, eps)
    rows[0, channels.ALIVE] += 1
channels_cpu.reduce_ = wrong
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    rows = channels.empty(3)
    for _ in range(2): channels.fold_channels(torch.ones(2, 3), 1, rows, (2.**-149, float('inf')))
print(len(said), said[0].message, rows[:, channels.ALIVE].tolist())
"""
    out = run_script(code)
    assert "1 the 'cpu' kernel does not reduce channels here" in out.stdout, out
    assert '[4.0, 4.0, 4.0]' in out.stdout
