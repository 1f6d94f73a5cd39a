"""What a number format would do, against torch's own casts of the very tensors, kept by plain hooks in trainings."""
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import SGD, Callback, DataLoaders, Learner, MSELossFlat, set_seed
from helpers import CpuAmp, Keep, LossTrace, make_record, quiet, record_of
from torch import nn

from fastai_actstats.all import ActStats, Bins, GradStats, Record, WeightStats, diagnose
from fastai_actstats.analysis.formats import FORMATS
from fastai_actstats.core.summary import Summary

EDGES = {'float16': ('zero',), 'bfloat16': ('zero',), 'float8_e4m3fn': ('zero',), 'float8_e5m2': ('zero',)}  # of a bin

def cast(x, fmt, scale=1.):
    "Shares of the non-zero values that torch's cast makes zero, subnormal, and Inf, NaN or the largest one of all"
    dtype, x = getattr(torch, fmt), x[x != 0]
    x = (x.double()*scale).float()
    y, largest = x.to(dtype).float(), torch.tensor(torch.finfo(dtype).max).to(dtype)
    bits = largest.view(torch.int16 if dtype.itemsize == 2 else torch.int8)
    gap = float(largest) - float((bits - 1).view(dtype))  # to the number before
    over = ~y.isfinite() | (x.abs().double() > float(largest) + gap/2)
    subnormal = (y != 0) & (y.abs() < torch.finfo(dtype).smallest_normal)
    return {name: float(v.double().mean()) for name, v in dict(zero=y == 0, subnormal=subnormal, overflow=over).items()}

def spread(n=20_000, seed=0):
    "Values of every size, both signs, some zero, none on the edge of a bin"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=g)*torch.exp2(torch.rand(n, generator=g)*60 - 40)
    x[::9] = 0
    return x

@pytest.mark.parametrize('fmt', FORMATS)
def test_fits_equals_torchs_cast(fmt):
    x = spread()
    rec = record_of([[x]], bins=Bins.formats())
    row = rec.fits(fmt).iloc[0]
    want = cast(x, fmt)
    for name in want:
        assert abs(row[name] - want[name]) <= row.within, name
        if name in EDGES[fmt]: assert row[name] == pytest.approx(want[name], abs=1e-12)
    assert row.within < .05
    sizes = np.abs(x[x != 0].double().numpy())
    low, high = np.quantile(sizes, .01, method='lower'), np.quantile(sizes, .01, method='higher')
    assert np.log2(sizes.max()/high) - 1 <= row.range_bits <= np.log2(sizes.max()/low) + 1
    assert row.headroom_bits == pytest.approx(np.log2(torch.finfo(getattr(torch, fmt)).max/sizes.max()))

@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('scale', ['amax', 'pow2', 'delayed', 4.])
def test_scales_are_those_of_the_tensors(fmt, scale):
    steps = [spread(seed=i)*2.**(i % 3) for i in range(5)]
    rec = record_of([[x] for x in steps], bins=Bins.formats())
    table = rec.fits(fmt, scale, columns=True, history=2)
    largest = torch.finfo(getattr(torch, fmt)).max
    for t, x in enumerate(steps):
        before = steps[max(t - 2, 0):t]
        by = {'amax': largest/float(x.abs().max()), 'pow2': 2.**np.floor(np.log2(largest/float(x.abs().max()))),
              'delayed': largest/max((float(o.abs().max()) for o in before), default=largest), 4.: 4.}[scale]
        want, row = cast(x, fmt, by), table.iloc[t]
        for name in want: assert abs(row[name] - want[name]) <= row.within + 1e-4, (name, t)  # amax itself rounds
        assert row.headroom_bits == pytest.approx(np.log2(largest/(float(x.abs().max())*by)), abs=1e-6)
    whole = rec.fits(fmt, scale, history=2).iloc[0]
    sizes = [int((x != 0).sum()) for x in steps]
    for name in ('zero', 'subnormal', 'overflow'):
        assert whole[name] == pytest.approx(np.average(table[name], weights=sizes))
    assert whole.headroom_bits == table.headroom_bits.min()

def test_bins_of_formats_tell_every_power_of_two():
    "Subnormal numbers too, in every kernel: the exponent by numpy's frexp"
    g = np.random.default_rng(0)
    x = np.concatenate([g.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32),
                        g.integers(0, 2**23, 5000, dtype=np.uint32).view(np.float32),
                        np.ldexp(np.float32(1), np.arange(-149, 128)), np.zeros(7, np.float32)])
    ok = x[np.isfinite(x)]
    octave = np.frexp(ok.astype(float))[1] - 1 + 149  # 0 .. 276
    slot = np.where(ok == 0, 0, np.where(ok < 0, -1 - octave, octave + 1)) + 278
    want = np.bincount(slot, minlength=557)
    for kernel in ('eager', 'cpu', 'cuda'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', RuntimeWarning)  # of triton's interpreter, which computes with numpy
            got = Summary.of(torch.from_numpy(x), Bins.formats(), kernel)
        assert (got.counts.numpy() == want).all(), kernel
    assert Bins.formats() == Bins.linear('formats') and Bins.formats().edges[[0, 277, 278, -1]].tolist() == [
        -2.**128, -2.**-149, 2.**-149, 2.**128]

@pytest.mark.slow
@pytest.mark.parametrize('fmt', FORMATS)
def test_a_real_training_is_read_as_its_tensors_cast(fmt, learner):
    keep = Keep()
    learn = learner([ActStats(bins='formats', capacity=64), WeightStats(bins='formats'), keep])
    before = {n: p.detach().clone() for n, p in learn.model.named_parameters() if p.abs().sum()}
    learn.fit(1, 1e-3)
    rec = learn.act_stats.record
    for scale in (None, 'amax'):
        table = rec.fits(fmt, scale, columns=True)
        for (_, row), (t, i) in zip(table.iterrows(), np.ndindex(len(rec), len(rec.layers))):
            x = keep.rows[t][rec.layers[i]].float()
            by = 1. if scale is None else torch.finfo(getattr(torch, fmt)).max/float(x.abs().max())
            want = cast(x, fmt, by)
            for name in want: assert abs(row[name] - want[name]) <= row.within + 2/len(x), (name, t, i)
            if scale is None: assert row.zero == want['zero']
    weights = learn.weight_stats.record.fits(fmt, columns=True)
    for layer, w in before.items():
        row = weights[(weights.layer == layer) & (weights.step == 0)].iloc[0]
        assert row.zero == cast(w, fmt)['zero']
    back = Record.load(rec.save(learn.path/'formats.npz'))
    pd.testing.assert_frame_equal(back.fits(fmt), rec.fits(fmt))

def test_bins_that_tell_less():
    x = spread()
    rec = record_of([[x]], bins=Bins.symlog())
    coarse, fine = rec.fits('float16').iloc[0], record_of([[x]], bins=Bins.formats()).fits('float16').iloc[0]
    small = float((x[x != 0].abs() < 2**-40).double().mean())
    assert coarse.within >= small > 0 and abs(coarse.zero - fine.zero) <= coarse.within + small
    with pytest.raises(ValueError, match="read off 12 equal bins .*bins='formats'"): make_record().fits('float16')
    with pytest.raises(ValueError, match="no format 'int8': float16, bfloat16"): rec.fits('int8')
    with pytest.raises(ValueError, match="scale='mx' must be .* blocks .* cannot be told"): rec.fits('float16', 'mx')
    for wrong in (0, -1., True, [2]):
        with pytest.raises(ValueError, match='scale='): rec.fits('float16', wrong)
    with pytest.raises(ValueError, match="what='lots' must be"): rec.formats(what='lots')

def test_the_table_of_layers_by_formats():
    rec = record_of([[torch.randn(999)*s for s in (1., 1e-6, 1e-12)]]*3, bins=Bins.formats())
    table = rec.formats()
    assert table.index.tolist() == ['l0', 'l1', 'l2'] and len(table.columns) == 6
    assert table['float16'].round(1).tolist() == [0, 0, 1] and table['bfloat16'].tolist() == [0, 0, 0]
    assert table['float8_e4m3fn'].tolist()[1:] == [1, 1] and table['float8_e4m3fn (amax)'].max() < .01
    bits = rec.formats(scale=None, what='headroom_bits')
    assert len(bits.columns) == 4 and (bits['float16'].diff()[1:] > 19).all()

def test_the_fit_of_each_column_is_there_still():
    rec = make_record()
    assert rec.fits.tolist() == [0]*12 and (rec.fits == rec.columns['fit']).all() and rec.fits.max() == 0
    assert rec[0].fits.shape == (12,)

def test_nothing_recorded():
    empty = record_of([[torch.randn(9)]], bins=Bins.formats()).part(slice(0, 0))
    assert empty.fits('float16', columns=True).empty
    zeros = record_of([[torch.zeros(9)]], bins=Bins.formats()).fits('float16', 'amax').iloc[0]
    assert np.isnan(zeros.zero) and zeros.within == 0

# runs that compute in a format

class TrainLoss(LossTrace):
    def after_batch(self):
        if self.training: super().after_batch()

class Grow(Callback):
    "A weight that grows step by step, until `last`"
    def __init__(self, layer, by, last): self.layer, self.by, self.last = layer, by, last
    def after_batch(self):
        if self.training and self.train_iter <= self.last:
            with torch.no_grad(): self.model[self.layer].weight.mul_(self.by)

def net(dtype, model, loss, lr, *cbs, epochs=4, scale=None):
    "The same data and weights whatever the format"
    x = torch.randn(512, 16)
    data = torch.utils.data.TensorDataset(x, x[:, :1].tanh())
    dls = DataLoaders.from_dsets(data, data, bs=32, num_workers=0, device=torch.device('cpu'))
    trace = TrainLoss()
    amp = CpuAmp(scale or 1., dtype, **({} if scale else dict(enabled=False)))
    learn = quiet(Learner(dls, model, loss_func=loss, opt_func=SGD, cbs=[amp, trace, *cbs]))
    learn.fit(epochs, lr)
    return learn, torch.stack(trace.seen)

def overflowing(dtype):
    set_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64),
                          nn.ReLU(), nn.Linear(64, 1))
    with torch.no_grad():
        model[1].weight.fill_(2000.)
        model[6].weight.mul_(.01)
    small = lambda pred, y: MSELossFlat()(pred, y)*1e-6
    return net(dtype, model, small, 1e-12, ActStats(bins='formats'), Keep(), Grow(4, 1.1, 45))

@pytest.mark.slow
def test_activations_that_will_overflow_are_named_before_the_loss_shows_it():
    learn, losses = overflowing(torch.float16)
    report = learn.act_stats.report()
    found = {f.finding: f for f in report if f.severity == 'alarm'}
    first = int((~losses.isfinite()).nonzero()[0])
    kept = [{n: float(x.abs().nan_to_num(0, 0, 0).max()) for n, x in step.items()} for step in learn.keep.rows]
    due = next((t, n) for t, step in enumerate(kept) for n, v in step.items() if v > 65504/4)
    assert (found['format'].since, found['format'].layer) == due and due[0] < first
    assert found['format'].since < found['nonfinite'].since <= first and report
    learn, losses = overflowing(torch.bfloat16)
    assert losses.isfinite().all() and not learn.act_stats.report()
    assert learn.act_stats.record.max.max() > 65504

def vanishing(dtype, scale=None):
    set_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    small = lambda pred, y: MSELossFlat()(pred, y)*1e-6
    return net(dtype, model, small, 4e4, ActStats(), GradStats(), scale=scale)

@pytest.mark.slow
def test_gradients_that_vanish_are_named_and_a_loss_scale_brings_them_back():
    learn, losses = vanishing(torch.float16)
    (found,) = [f for f in diagnose(learn) if f.finding == 'format']
    assert found.severity == 'alarm' and found.since < 20 and 'subnormal' in found.evidence
    smallest = {n: float(x) for n, x in zip(learn.grad_stats.record.layers, np.nanmax(learn.grad_stats.record.max, 0))}
    assert smallest[found.layer] < 2**-14  # all of it subnormal
    _, better = vanishing(torch.bfloat16)
    assert losses[-20:].mean() > 1.2*better[-20:].mean()  # the loss shows it later: it falls less far
    for dtype, scale in ((torch.bfloat16, None), (torch.float16, 2.**20)):
        learn, losses = vanishing(dtype, scale)
        assert not [f for f in diagnose(learn) if f.finding == 'format'], (dtype, scale)
        assert losses[-1] < losses[0]

@pytest.mark.slow
def test_the_loss_scale_is_noted_and_told(tmp_path):
    learn, _ = vanishing(torch.float16, 4.)
    rec = learn.grad_stats.record
    assert rec.made['loss_scale'][0] == [0, 4.] and {s for _, s in rec.made['loss_scale']} == {4.}
    back = Record.load(rec.save(tmp_path/'run.npz'))
    for r in (rec, back):
        (found,) = [f for f in r.report() if f.finding == 'format']
        assert 'loss scale 4' in found.evidence
    assert back.info['0']['dtype'] == 'float16'

def test_what_float16_would_lose_is_a_note():
    steps = [[torch.randn(500), torch.randn(500)*1e-5*(1 if t < 10 else .01)] for t in range(30)]
    rec = record_of(steps, bins=Bins.formats())
    report = rec.report()
    (found,) = report
    assert (found.layer, found.finding, found.since, found.severity) == ('l1', 'format', 10, 'note')
    assert not report and len(report) == 1 and 'Nothing found. 1 note: format.' in report.headline
    assert '(a note)' in repr(report) and report.df.severity.tolist() == ['note']
    assert not len(record_of(steps, bins=Bins.symlog()).report(rules='format'))  # nobody asked

def test_outliers_are_a_note_when_they_grow():
    def steps(last, n=100):
        for t in range(n):
            x = torch.randn(4000)
            x[0] = 4 + max(t/n - .4, 0)*last
            yield [torch.randn(4000), x]
    rec = record_of(list(steps(300.)))
    (found,) = rec.report(rules='outliers')
    assert found.layer == 'l1' and 40 < found.since < 90 and found.severity == 'note'
    assert 'kurtosis' in found.evidence and not rec.report(rules='outliers')
    assert not len(record_of(list(steps(8.))).report(rules='outliers'))
    heavy = [[torch.randn(4000)**7] for _ in range(100)]  # heavy from the start, and no heavier later
    assert not len(record_of(heavy).report(rules='outliers'))
    assert not len(record_of(list(steps(300., 20))).report(rules='outliers'))  # too short to tell
