"""The reduction by every kernel, against numpy in float64."""
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis, skew

from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels.bins import Bins

KERNELS = 'eager', 'cpu', 'cuda'  # the last in triton's interpreter where there is no GPU

def summary(x, bins, kernel):
    with warnings.catch_warnings():
        # the interpreter computes with numpy, which complains of Inf - Inf
        if kernel == 'cuda': warnings.simplefilter('ignore', RuntimeWarning)
        made = Summary.of(x.cuda() if kernel == 'cuda' and torch.cuda.is_available() else x, bins, kernel)
    return Summary(made.rows.cpu(), bins)

BINS = Bins.linear(80, (-10, 10))
LOG = Bins.symlog(per_octave=2)

def histogram(ok, bins, double):
    "Slots 0 .. B+1 of finite values by the edge rule that `Bins` states, in numpy"
    if bins.per_octave:
        upper = bins.edges[bins.n//2 + 1:]
        size = np.abs(ok)
        k = np.where(size > bins.hi, len(upper), np.minimum(np.searchsorted(upper, size, side='right'), len(upper) - 1))
        slot = np.where(ok < 0, -k, k) + bins.n//2 + 1
    else:
        f = np.float64 if double else np.float32
        with np.errstate(over='ignore'): k = np.floor((f(ok) - f(bins.lo))*f(bins.scale))
        slot = np.where(ok < f(bins.lo), 0,
                        np.where(ok > f(bins.hi), bins.n + 1, np.clip(k, 0, bins.n - 1) + 1)).astype(int)
    return np.bincount(slot, minlength=bins.n + 2)

def reference(x, bins):
    "What a summary should say of `x`, computed by numpy in float64"
    double = x.dtype == torch.float64
    v = (x if double else x.float()).double().numpy().ravel()
    ok = v[np.isfinite(v)]
    some, several = ok.size > 0, ok.size > 1
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)  # of constants, whose moments scipy does not trust
        shape = dict(skew=skew(ok), kurtosis=kurtosis(ok)) if some else dict(skew=np.nan, kurtosis=np.nan)
    return dict(count=v.size, nonfinite=v.size - ok.size, mean=ok.mean() if some else np.nan,
                std=ok.std(ddof=1) if several else np.nan, min=ok.min() if some else np.nan,
                max=ok.max() if some else np.nan, counts=histogram(ok, bins, double), values=ok, **shape,
                near_zero=(np.abs(ok) <= (bins.eps if double else np.float32(bins.eps))).mean() if some else np.nan)

def special(x, every, *values):
    x = x.clone()
    for i, v in enumerate(values): x.view(-1)[i::every] = v
    return x

def cases():
    g = torch.Generator().manual_seed(0)
    r = lambda *s: torch.randn(*s, generator=g)*3 + 0.0123
    yield 'normal', r(64, 8, 14, 14)
    yield 'relu', r(50_000).relu()
    yield 'constant', torch.full((12_345,), 0.3)
    yield 'zeros', torch.zeros(70_001)
    yield 'far from zero', r(100_000)*0.1/3 + 1e6
    yield 'huge', r(10_001)*1e30
    yield 'tiny', r(10_001)*1e-30
    yield 'subnormal', r(10_001)*1e-41
    yield 'one huge among small', special(r(10_000)*1e-3, 10_000, 1e30)
    yield 'nan and inf', special(r(10_001), 97, float('nan'), float('inf'), -float('inf'))
    yield 'nan far from zero', special(r(10_001)*0.1 + 1e6, 97, float('nan'))
    yield 'begins unlike the rest', torch.cat([torch.zeros(300), r(30_000)*0.1 + 1e6])
    yield 'begins with nan', torch.cat([torch.full((13_000,), float('nan')), r(30_000)*0.01 + 7])
    yield 'all nan', torch.full((100,), float('nan'))
    yield 'empty', torch.zeros(0, 3)
    yield 'one', torch.tensor([2.5])
    yield 'scalar', torch.tensor(-0.5)
    yield 'outside', r(1001)*100
    yield 'transposed', r(300, 200).t()
    yield 'channels last', r(8, 16, 9, 9).to(memory_format=torch.channels_last)
    yield 'sliced', r(300, 200)[::2, 3::5]
    yield 'expanded', r(300, 1).expand(300, 50)
    yield 'expanded in front', r(1, 30, 2).expand(7, 30, 2)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        yield f'{dtype}', r(20_001).to(dtype)
        yield f'{dtype} relu', special(r(20_001).relu().to(dtype), 500, float('nan'))
    yield 'skewed, far from zero', r(30_000).exp()*1e-2 + 1e3
    yield 'skewed, in bfloat16', (r(30_000).div(3).exp()*30 + 1e3).bfloat16()
    yield 'as large as can be', r(10_001).exp()*1e34
CASES = dict(cases())

@pytest.mark.parametrize('kernel', KERNELS)
@pytest.mark.parametrize('bins', [BINS, LOG, Bins.linear(7, (-0.3, 5.1), eps=0.)], ids=['linear', 'log', 'odd'])
@pytest.mark.parametrize('name', CASES)
def test_equals_numpy(name, bins, kernel):
    x = CASES[name]
    got, want = summary(x, bins, kernel), reference(x, bins)
    assert int(got.count) == want['count'] and int(got.nonfinite) == want['nonfinite']
    assert (got.counts.numpy() == want['counts']).all() and int(got.counts.sum() + got.nonfinite) == want['count']
    if not bins.per_octave:  # numpy's own histogram, but for values within float32 rounding of an edge
        nearest = bins.edges[np.abs(want['values'][:, None] - bins.edges).argmin(1)]
        beside = (np.abs(want['values'] - nearest) <= 2**-22*np.maximum(np.abs(nearest), max(-bins.lo, bins.hi))).sum()
        assert np.abs(got.hist.numpy() - np.histogram(want['values'], bins.edges)[0]).sum() <= 2*beside
    scale = CASES[name].double().nan_to_num(0, 0, 0).abs().max().item() if want['count'] else 1
    np.testing.assert_allclose(float(got.mean), want['mean'], rtol=1e-6, atol=1e-9*scale)
    np.testing.assert_allclose(float(got.std), want['std'], rtol=1e-6, atol=1e-12*scale)
    np.testing.assert_allclose(float(got.skew), want['skew'], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(float(got.kurtosis), want['kurtosis'], rtol=1e-4, atol=1e-9)
    for stat in ('min', 'max', 'near_zero'): np.testing.assert_allclose(float(getattr(got, stat)), want[stat], rtol=0)

@pytest.mark.parametrize('bins', [BINS, LOG], ids=['linear', 'log'])
def test_every_edge_belongs_to_the_bin_above_it_and_the_last_to_the_last(bins):
    # a log edge below zero mirrors the one above
    edges = bins.edges[bins.edges >= 0] if bins.per_octave else bins.edges
    edges = torch.tensor(edges, dtype=torch.float64)
    got = Summary.of(edges, bins).counts
    assert torch.equal(got, torch.from_numpy(np.concatenate([[0], np.histogram(edges, bins.edges)[0], [0]])))

def test_a_kernel_reads_no_memory_of_another_device():
    elsewhere = torch.ones(5, device='meta')
    for kernel in ('cpu', 'cuda'):
        with pytest.raises(ValueError, match=f"kernel='{kernel}' does not reduce tensors on meta"):
            Summary.of(elsewhere, BINS, kernel)
    with pytest.raises(ValueError, match="kernel='fpga' must be one of"): Summary.of(torch.ones(5), BINS, 'fpga')

@pytest.mark.parametrize('kernel', KERNELS)
def test_counts_are_exact_beyond_float32(kernel, monkeypatch):
    from fastai_actstats.kernels import cuda
    monkeypatch.setattr(cuda, 'TILE', 2**20)  # fewer tiles: the interpreter is slow
    n = 2**24 + 3  # float32 counts stick at 2**24
    assert int(summary(torch.ones(n, dtype=torch.bfloat16), BINS, kernel).hist.max()) == n

def test_float32_index_is_float32s_own_rounding():
    "Values a rounding error from an edge go where float32 arithmetic puts them, by an independent numpy evaluation"
    bins = Bins.linear(40, (-1.7, 9.1))
    x = np.nextafter(np.repeat(bins.edges.astype(np.float32), 3), np.tile(np.float32([-99, 0, 99]), 41))
    x = x[(x >= np.float32(bins.lo)) & (x <= np.float32(bins.hi))]
    k = np.minimum(np.floor((x - np.float32(bins.lo))*np.float32(bins.scale)), 39).astype(int)
    for kernel in KERNELS:
        assert (summary(torch.from_numpy(x), bins, kernel).hist.numpy() == np.bincount(k, minlength=40)).all()
