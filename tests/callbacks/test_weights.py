"""WeightStats against weights saved by hand, for fastai's optimisers, and for steps that were not made."""
import math
from functools import partial

import numpy as np
import pytest
import torch
from fastai.basics import (
    SGD,
    Adam,
    Callback,
    CancelBatchException,
    CancelStepException,
    Lamb,
    OptimWrapper,
    QHAdam,
    RAdam,
    RMSProp,
    ranger,
)
from fastai.callback.training import GradientAccumulation, GradientClip
from helpers import CpuAmp
from torch import nn

from fastai_actstats.all import WeightStats
from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.dispatch import SMALL, fold_all
from fastai_actstats.kernels.eager import MEAN, empty


class Save(Callback):
    "Weights before and after each batch, and the gradients the optimiser is given, in float64"
    order = 56
    def __init__(self): self.before, self.after, self.grads = [], [], []
    def copies(self): return {n: p.detach().double() for n, p in self.learn.model.named_parameters()}
    def before_batch(self):
        if self.learn.training: self.before.append(self.copies())
    def before_step(self):
        self.grads.append({n: p.grad.double() for n, p in self.learn.model.named_parameters() if p.grad is not None})
    def after_batch(self):
        if self.learn.training: self.after.append(self.copies())

OPTIMISERS = dict(sgd=partial(SGD, mom=.9, wd=.1), decoupled=partial(SGD, wd=.5, decouple_wd=True), rmsprop=RMSProp,
                  adam=partial(Adam, wd=.3), l2=partial(Adam, wd=.3, decouple_wd=False), radam=RAdam, qhadam=QHAdam,
                  lamb=Lamb, ranger=ranger,
                  torch=partial(OptimWrapper, opt=torch.optim.AdamW))

@pytest.mark.parametrize('name', OPTIMISERS)
def test_equal_saved_weights(learner, settings, name):
    save, stats = Save(), WeightStats()
    learn = learner([stats, save], model=nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(),
                                                       nn.Linear(16, 10)),
                    opt_func=OPTIMISERS[name])
    learn.fit(1, settings.lr/10)
    rec, ratio = stats.record, stats.update_ratio()
    assert rec.layers == [n for n, _ in learn.model.named_parameters()] == stats.grads.layers == stats.updates.layers
    assert (rec.what, stats.grads.what, stats.updates.what) == ('weights', 'weight gradients', 'updates')
    assert len(rec) == len(save.before) == 14
    for step, (before, after, grads) in enumerate(zip(save.before, save.after, save.grads)):
        for i, n in enumerate(rec.layers):
            update = after[n] - before[n]
            for got, want in ((rec, before[n]), (stats.grads, grads[n]), (stats.updates, update)):
                np.testing.assert_allclose(got.std[step, i], want.std(), rtol=1e-5, atol=1e-10)
                np.testing.assert_allclose(got.max[step, i], want.max(), rtol=1e-5, atol=1e-10)
                assert got.count[step, i] == want.numel()
            moved, size = float(update.std()), float(before[n].std())
            np.testing.assert_allclose(ratio[step, i], math.nan if not size else math.log10(moved/size) if moved
                                       else -math.inf, atol=1e-4)

def test_weight_decay_alone_is_an_update(learner, settings):
    class NoGradient(Callback):
        def before_step(self): [p.grad.zero_() for p in self.learn.model.parameters()]
    learn = learner([WeightStats('*.0'), NoGradient()], opt_func=partial(SGD, wd=.1, decouple_wd=True))
    learn.fit(1, settings.lr)
    names = learn.weight_stats.record.layers
    ratio = learn.weight_stats.update_ratio()[:, [names.index('1.0.weight'), names.index('2.0.weight')]]
    np.testing.assert_allclose(ratio, np.log10(settings.lr*.1), atol=1e-3)
    assert (learn.weight_stats.grads.max == 0).all()

def test_accumulation_makes_one_update_a_step(learner, settings):
    learn = learner([WeightStats(), GradientAccumulation(2*settings.batch_size), save := Save()])
    learn.fit(1, settings.lr)
    stats = learn.weight_stats
    assert len(stats.record) == 7 == len(save.grads) and stats.accumulator.step == 7
    i = stats.record.layers.index('2.0.weight')
    for step in range(7):
        np.testing.assert_allclose(stats.updates.std[step, i],
                                   (save.after[2*step + 1]['2.0.weight'] - save.before[2*step]['2.0.weight']).std(),
                                   rtol=1e-5)
        np.testing.assert_allclose(stats.grads.std[step, i], save.grads[step]['2.0.weight'].std(), rtol=1e-5)

def test_a_step_that_mixed_precision_skips_is_none(learner, settings):
    class Overflow(Callback):
        def after_loss(self):
            if self.learn.training and self.learn.train_iter in (0, 4):
                self.learn.loss_grad = self.learn.loss_grad*float('inf')
    learn = learner([WeightStats(), CpuAmp(), GradientClip(.01), Overflow(), save := Save()])
    learn.fit(1, settings.lr)
    stats = learn.weight_stats
    made = (stats.updates.count > 0).all(1)
    same = [all(torch.equal(a[n], b[n]) for n in a if 'running' not in n) for a, b in zip(save.before, save.after)]
    assert np.flatnonzero(~made).tolist() == [0, 4] and (made == ~np.array(same)).all()
    assert len(stats.record) == 14 == stats.accumulator.step
    assert stats.grads.nonfinite[~made].any() and not stats.grads.nonfinite[made].any()
    assert np.isnan(stats.update_ratio()[0]).all()
    total = np.sqrt(np.nansum((stats.grads.count - 1)*stats.grads.std**2 + stats.grads.count*stats.grads.mean**2, 1,
                              where=stats.grads.count > 1)[made])
    assert (total <= .0101).all() and total.max() > .009, "gradients are those after clipping, unscaled"

@pytest.mark.parametrize('error', [CancelStepException, CancelBatchException])
def test_a_cancelled_step_is_none(learner, settings, error):
    class Cancel(Callback):
        order = 57
        def before_step(self):
            if self.learn.train_iter == 3: raise error
    learn = learner([WeightStats(), Cancel()])
    learn.fit(1, settings.lr)
    stats = learn.weight_stats
    assert stats._before is None and np.isnan(stats.updates.std).all(1).sum() == (error is CancelStepException)
    assert len(stats.record) == (14 if error is CancelStepException else 13)

def test_copies_last_no_longer_than_a_step(learner, settings):
    class Look(Callback):
        order, held = 99, ()
        def before_step(self): self.held += (stats._before is not None,)
        def after_step(self): self.held += (stats._before is None,)
        def after_batch(self): self.held += (stats._before is None,)
    stats = WeightStats(every=2)
    learn = learner([stats, look := Look()])
    learn.fit(1, settings.lr)
    assert look.held[:6] == (True, True, True, False, True, True) and len(stats.record) == 7

def test_frozen_and_tied_parameters(learner, settings):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 10))
    model[3].weight = model[2].weight
    for p in model[1].parameters(): p.requires_grad_(False)
    learn = learner(WeightStats(), model=model)
    learn.fit(1, settings.lr)
    stats = learn.weight_stats
    names = stats.record.layers
    assert names == ['1.weight', '1.bias', '2.weight', '2.bias', '3.bias', '4.weight',
                     '4.bias'] == list(dict(model.named_parameters()))
    frozen = [n.startswith('1.') for n in names]
    assert ((stats.updates.count == 0).all(0) == frozen).all() and (stats.record.count > 0).all()
    assert (stats.grads.count[:, frozen] == 0).all()

def test_layers_choose_parameters_inside_them(learner, settings):
    learn = learner(WeightStats('1'))
    learn.fit(1, settings.lr)
    assert learn.weight_stats.record.layers == ['1.0.weight', '1.0.bias', '1.1.weight', '1.1.bias']
    assert learn.weight_stats.record.info['1.0.bias']['type'] == 'Conv2d'
    with pytest.raises(ValueError, match='none of the 4 layers has floating-point parameters'):
        learner(WeightStats(nn.ReLU)).fit(1)
    with pytest.raises(ValueError, match="kernel='fpga'"): WeightStats(kernel='fpga')

@pytest.mark.parametrize('kernel', ['auto', 'eager'])
def test_folding_together_is_folding_one_by_one(kernel):
    bins, sizes = Bins.symlog(), [3, 5, 3, 1, SMALL, SMALL + 1, 3, SMALL, 0]
    tensors = [torch.randn(n).double() if i == 6 else torch.randn(n)*10.**-i for i, n in enumerate(sizes)]
    tensors[0][1], tensors[2][0] = float('nan'), float('-inf')
    rows = empty(len(sizes), bins=bins)
    for _ in range(2): fold_all(tensors, list(range(len(sizes)))[::-1], rows, bins, kernel)
    for x, row in zip(tensors, reversed(rows)):
        want = Summary.of(torch.cat([x, x]), bins).rows if len(x) else empty(bins=bins)
        assert torch.equal(row[:MEAN], want[:MEAN]) and torch.allclose(row[MEAN:], want[MEAN:], rtol=1e-12)

def test_a_fault_while_recording_ends_no_training(learner, settings, monkeypatch):
    def fail(*args): raise RuntimeError('no room')
    learn = learner(WeightStats())
    with monkeypatch.context() as m, pytest.warns(UserWarning, match='WeightStats records no more.*no room') as seen:
        m.setattr('fastai_actstats.callbacks.weights.fold_all', fail)
        learn.fit(1, settings.lr)
    assert len(seen) == 1 and learn.weight_stats._before is None
    learn.fit(1, settings.lr)
    assert learn.weight_stats.record.count[-1].all()
