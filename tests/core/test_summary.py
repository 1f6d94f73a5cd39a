"""Summaries: laws of merging, and quantiles against numpy."""
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis, skew

from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.dispatch import fold
from fastai_actstats.kernels.eager import M2, M3, M4, MEAN, MIN

BINS = Bins.linear(80, (-10, 10))
values = st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), max_size=40)
tidy = settings(max_examples=60, deadline=None)

def close(a, b, scale=1.):
    assert torch.equal(a.rows[..., :MEAN], b.rows[..., :MEAN]) and torch.equal(a.rows[..., MIN:], b.rows[..., MIN:])
    torch.testing.assert_close(a.rows[..., MEAN], b.rows[..., MEAN], rtol=1e-9, atol=1e-12*scale)
    torch.testing.assert_close(a.rows[..., M2], b.rows[..., M2], rtol=1e-7, atol=1e-12*scale**2)
    torch.testing.assert_close(a.rows[..., M3], b.rows[..., M3], rtol=1e-7, atol=1e-12*scale**3)
    torch.testing.assert_close(a.rows[..., M4], b.rows[..., M4], rtol=1e-7, atol=1e-12*scale**4)

@tidy
@given(values, values, values)
def test_merging_is_associative_commutative_and_equals_the_concatenation(a, b, c):
    parts = [torch.tensor(v, dtype=torch.float32) for v in (a, b, c)]
    scale = float(torch.cat(parts).double().nan_to_num(0, 0, 0).abs().max()) + 1e-300 if any((a, b, c)) else 1.
    x, y, z = (Summary.of(p, BINS) for p in parts)
    whole = Summary.of(torch.cat(parts), BINS)
    close(x.merge(y).merge(z), x.merge(y.merge(z)), scale)
    close(x.merge(y), y.merge(x), scale)
    close(x.merge(y, z), whole, scale)
    row = Summary.empty(bins=BINS)
    for p in parts: fold(p, row.rows, BINS)
    close(row, whole, scale)

@tidy
@given(st.lists(st.lists(st.floats(-5, 5), min_size=1, max_size=30), min_size=1, max_size=9), st.randoms(),
       st.integers(1, 8))
def test_shape_is_scipys_merged_in_any_order(sets, random, cut):
    "About 1000, where the fourth power of a mean is 1e12 times that of a deviation"
    sets = [np.array(s) + 1e3 for s in sets]
    every = np.concatenate(sets)
    parts = [Summary.of(torch.from_numpy(s), BINS) for s in sets]
    random.shuffle(parts)
    whole = parts[0].merge(*parts[1:cut])
    for part in parts[cut:]: whole = part.merge(whole)
    if every.std() < 1e-3: return  # numpy itself has lost the digits
    np.testing.assert_allclose(float(whole.skew), skew(every), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(float(whole.kurtosis), kurtosis(every), rtol=1e-6, atol=1e-6)

def test_what_was_not_recorded_stays_so():
    "A row of a file without the third and fourth moments, merged with one that has them"
    old = Summary.of(torch.randn(50), BINS)
    old.rows[..., M3:M4 + 1] = torch.nan
    new = Summary.of(torch.randn(60), BINS)
    for both in (old.merge(new), new.merge(old), old.merge(Summary.empty(bins=BINS))):
        assert both.skew.isnan() and both.kurtosis.isnan() and both.std.isfinite() and both.mean.isfinite()

def test_values_that_do_not_vary_have_no_shape():
    for x in ([], [3.], [.3]*1000, [float('nan'), 2.]):
        one = Summary.of(torch.tensor(x), BINS)
        assert one.skew.isnan() and one.kurtosis.isnan()
    assert float(Summary.of(torch.tensor([1., 2.]), BINS).kurtosis) == -2  # as scipy says

@tidy
@given(values)
def test_the_empty_summary_changes_nothing(a):
    x = Summary.of(torch.tensor(a, dtype=torch.float32), BINS)
    assert torch.equal(x.merge(Summary.empty(bins=BINS)).rows, x.rows)

@tidy
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_right_to_the_width_of_a_bin(a, q):
    got = float(Summary.of(torch.tensor(a), BINS).quantile(q))
    low, high = np.quantile(np.float32(a), q, method='lower'), np.quantile(np.float32(a), q, method='higher')
    inside = lambda v: abs(v) <= 10
    if inside(low) and inside(high): assert low - 0.2501 <= got <= high + 0.2501
    assert min(a) <= got <= max(a)

def test_different_bins_do_not_merge():
    with pytest.raises(ValueError, match='different bins'):
        Summary.empty(bins=BINS).merge(Summary.empty(bins=Bins.linear(80, eps=.1)))
