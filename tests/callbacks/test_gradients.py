"""GradStats against autograd, under everything that scales or cuts up a step."""
import copy
from functools import partial

import numpy as np
import pytest
import torch
from fastai.basics import (
    SGD,
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CrossEntropyLossFlat,
    Learner,
    set_seed,
)
from fastai.callback.training import GradientAccumulation
from helpers import CpuAmp, hooks_on
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastai_actstats.all import ActStats, GradStats
from fastai_actstats.callbacks.hooks import Watch
from fastai_actstats.core.summary import Summary
from fastai_actstats.demo import reference_cnn
from fastai_actstats.kernels.bins import Bins


class KeepGradients(Callback):
    "The gradient of the loss at the outputs of layers, by `torch.autograd.grad` on a copy of the model"
    order = 1  # once the model is in training mode
    def __init__(self, names, steps=3): self.names, self.steps, self.kept = names, steps, []
    def before_batch(self):
        if not self.learn.training or len(self.kept) == self.steps: return
        model, outputs = copy.deepcopy(self.learn.model), {}
        for n in self.names:
            dict(model.named_modules())[n].register_forward_hook(lambda m, i, o, n=n: outputs.update({n: o}))
        loss = self.learn.loss_func(model(*self.learn.xb), *self.learn.yb)
        self.kept.append([g.double() for g in torch.autograd.grad(loss, [outputs[n] for n in self.names])])

def check(rec, kept, names, rtol=1e-5):
    for step, gradients in enumerate(kept):
        for name, g in zip(names, gradients):
            i = rec.layers.index(name)
            np.testing.assert_allclose(rec.std[step, i], g.std(), rtol=rtol)
            np.testing.assert_allclose(rec.mean[step, i], g.mean(), rtol=rtol, atol=rtol*g.std().item())
            np.testing.assert_allclose([rec.min[step, i], rec.max[step, i]], [g.min(), g.max()], rtol=rtol)
            want = Summary.of(g.float(), rec.bins)
            assert rec.count[step, i] == g.numel()
            assert np.abs(rec.hist[step, i] - want.hist.numpy()).sum() <= 1e-3*g.numel()

def fitted(learner, settings, cbs, **kwargs):
    learn = learner(cbs, **kwargs)
    learn.fit(1, settings.lr/10)
    return learn

NAMES = ['0.0', '1.1', '2.2', '4.0']

def inplace(model):
    for m in model.modules():
        if isinstance(m, nn.ReLU): m.inplace = True
    return model

def seeded(*models):
    for m in models[1:]: m.load_state_dict(models[0].state_dict())
    return models

@pytest.mark.parametrize('model', [reference_cnn, lambda: inplace(reference_cnn())], ids=['plain', 'in-place'])
def test_equal_autograds(learner, settings, model):
    # autograd itself needs outputs that stay as they are
    keep = KeepGradients([n for n in NAMES if n != '1.1' or model is reference_cnn])
    learn = learner([GradStats(NAMES), keep], model=model())
    learn.fit(1, settings.lr)
    rec = learn.grad_stats.record
    assert rec.what == 'gradients' and rec.layers == NAMES and len(rec) == 14 and rec.bins == Bins.symlog()
    assert (rec.hist.sum(-1) + rec.underflow + rec.overflow + rec.nonfinite == rec.count).all()
    assert not rec.nonfinite.any()
    check(rec, keep.kept, keep.names)

def test_in_place_modules_change_nothing(learner, settings):
    a, b = (fitted(learner, settings, GradStats(NAMES), model=model).grad_stats.record
            for model in seeded(reference_cnn(), inplace(reference_cnn())))
    assert torch.equal(a.summary.rows, b.summary.rows) and np.isfinite(a.std).all()

def test_the_loss_scale_is_taken_out(learner, settings):
    a, b = (fitted(learner, settings, [GradStats(NAMES), CpuAmp(scale)]).grad_stats.record for scale in (1., 2.**12))
    assert torch.equal(a.summary.rows, b.summary.rows), "powers of two scale without rounding"
    assert (b.max < 1).all() and b.std[0, -1] > 1e-3

def test_accumulation_is_one_batch_of_the_whole_step(learner, few, settings):
    from fastai.basics import DataLoaders
    halves = DataLoaders.from_dsets(few.train_ds, few.valid_ds, bs=settings.batch_size//2, device=torch.device('cpu'),
                                    num_workers=0)
    for dls in (few, halves): dls.train.shuffle = False
    try:
        models = seeded(reference_cnn(False), reference_cnn(False))
        runs = zip(models, (few, halves), ([], [GradientAccumulation(settings.batch_size)]))
        a, b = (fitted(learner, settings, [GradStats(), *cbs], model=model, dls=dls).grad_stats.record
                for model, dls, cbs in runs)
    finally: few.train.shuffle = True
    assert len(a) == 14 and len(b) == 15 and (b.count[-1] == a.count[0]/2).all(), "the last half never made a step"
    b = b.between(0, 13)
    assert (a.steps == b.steps).all() and (a.count == b.count).all()
    np.testing.assert_allclose(a.std[:5], b.std[:5], rtol=1e-3)
    np.testing.assert_allclose(a.std[0], b.std[0], rtol=1e-5)

class Odd(nn.Module):
    "Parts under checkpoint, called twice, frozen, that never run, and one that returns its own parameter"
    def __init__(self, reentrant):
        super().__init__()
        self.frozen, self.part, self.twice, self.idle, self.head = (
            nn.Linear(i, o) for i, o in ((784, 32), (32, 32), (32, 32), (2, 2), (32, 10)))
        self.own, self.reentrant = Own(), reentrant
        for p in self.frozen.parameters(): p.requires_grad_(False)
    def forward(self, x):
        x = self.frozen(x.flatten(1)) + self.own()
        x = checkpoint(self.part, x, use_reentrant=self.reentrant)
        return self.head(self.twice(self.twice(x).relu()).relu())

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(32))
    def forward(self): return self.bias

@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')  # checkpoint says so in validation
@pytest.mark.parametrize('reentrant', [True, False])
def test_layers_of_odd_kinds(learner, settings, reentrant):
    model = Odd(reentrant)
    learn = learner([GradStats(), ActStats()], model=model)
    learn.fit(1, settings.lr)
    rec, n = learn.grad_stats.record, settings.batch_size
    count = dict(zip(rec.layers, rec.count[0]))
    assert count == dict(frozen=0, part=32*n, twice=2*32*n, idle=0, head=10*n, own=32), count
    assert np.isnan(rec.std[:, rec.layers.index('frozen')]).all()
    assert not model.own.bias._backward_hooks and not hooks_on(model)

def test_hooks_are_shared_and_go_whatever_ends_the_fit(learner, settings):
    seen = []
    class Stop(Callback):
        def after_backward(self):
            seen.append([len(m._forward_hooks) for m in self.learn.model.modules() if m._forward_hooks])
            if self.learn.train_iter == 3: raise KeyboardInterrupt
    learn = learner([ActStats(), GradStats(), Stop()])
    with pytest.raises(KeyboardInterrupt): learn.fit(1, settings.lr)
    assert seen[0] == [1]*9 and not hooks_on(learn.model) and not isinstance(learn._do_epoch, Watch)
    assert len(learn.grad_stats.record) == 4 == len(learn.act_stats.record)

def test_a_batch_cancelled_before_its_backward_pass_leaves_nothing(learner, settings):
    class Skip(Callback):
        def after_loss(self):
            if self.learn.training and self.learn.train_iter == 2: raise CancelBatchException
    learn = learner([ActStats(), GradStats(), Skip()])
    learn.fit(1, settings.lr)
    assert (learn.grad_stats.record.steps == learn.act_stats.record.steps).all() and len(learn.grad_stats.record) == 13

def test_gradients_that_are_not_finite_are_counted(learner, settings):
    class Spoil(Callback):
        def after_loss(self):
            if self.learn.training and self.learn.train_iter == 5:
                self.learn.loss_grad = self.learn.loss_grad*float('nan')
    learn = learner([GradStats(), Spoil()])
    learn.fit(1, settings.lr)
    rec = learn.grad_stats.record
    assert (not rec.nonfinite[:5].any()
            and rec.nonfinite[5].all()), "a ReLU lets no gradient through, NaN or not, where it is 0"
    assert rec.nonfinite[5, -1] == rec.count[5, -1] and np.isnan(rec.std[5, -1])

def test_bad_arguments_are_refused():
    for kwargs, match in ((dict(kernel='fpga'), "kernel='fpga'"), (dict(every=0), 'every=0')):
        with pytest.raises(ValueError, match=match): GradStats(**kwargs)
    with pytest.raises(TypeError, match="pick='x'"): GradStats(pick='x')

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor')  # dynamo looks at it
def test_a_compiled_model_has_the_same_gradients(learner, settings):
    models = seeded(reference_cnn(False), reference_cnn(False))
    models[1][1].compile(backend='eager')
    a, b = (fitted(learner, settings, GradStats(NAMES[:1] + ['1.0']), model=model).grad_stats.record
            for model in models)
    assert a.layers == b.layers and torch.equal(a.summary.rows, b.summary.rows) and (a.count > 0).all()

def test_calls_are_told_apart(learner, settings):
    model = Odd(False)
    one, two = (fitted(learner, settings, GradStats('twice', calls=calls), model=m).grad_stats.record
                for calls, m in zip((1, 2), seeded(Odd(False), model)))
    assert two.layers == ['twice', 'twice:2'] and (two.count.sum(1) == one.count[:, 0]).all()
    assert (two.count[:, 0] == two.count[:, 1]).all()
    assert (two.max.max(1) == one.max[:, 0]).all() and (two.std[:, 0] != two.std[:, 1]).all()

class Penalty(Callback):
    "The loss and a penalty on the input's gradient, added at `where`; what arrives in the loss's own pass, by autograd"
    order, weight = 1, 3.
    def __init__(self, where, names, penalised=True):
        self.where, self.names, self.penalised, self.kept = where, names, penalised, []
    def before_fit(self):
        modules = dict(self.model.named_modules())
        self.handles = [modules[n].register_forward_hook(partial(self.keep, n)) for n in self.names]
    def keep(self, name, module, args, output): self.outputs[name] = output
    def before_batch(self):
        self.outputs = {}
        self.learn.xb = (self.xb[0].requires_grad_(),)
    def add(self):
        if not self.learn.training: return
        g, = torch.autograd.grad(self.learn.loss_grad, self.xb[0], create_graph=True)
        if self.penalised: self.learn.loss_grad = self.learn.loss_grad + self.weight*g.pow(2).sum()
    def after_loss(self):
        if self.where == 'after_loss': self.add()
    def before_backward(self):
        if self.where == 'before_backward': self.add()
        self.kept.append([g.double() for g in torch.autograd.grad(self.learn.loss_grad,
                                                                  [self.outputs[n] for n in self.names],
                                                                  retain_graph=True)])
    def after_fit(self): [h.remove() for h in self.handles]

@pytest.mark.parametrize('where', ['after_loss', 'before_backward'])
def test_a_gradient_penalty_counts_by_what_it_adds_to_the_loss(learner, settings, where, record_row):
    names = ['0.0', '1.0', '4.0']
    grads, keep = GradStats(names), Penalty(where, names)
    model = reference_cnn(False)
    for m in model.modules():
        if isinstance(m, nn.ReLU): m.inplace = False
    learn = learner([grads, keep], model=model)
    learn.fit(1, settings.lr/10)
    assert len(grads.record) == 14
    check(grads.record, keep.kept, names)  # count too: once a step
    plain = fitted(learner, settings, GradStats(names), model=reference_cnn(False)).grad_stats.record
    assert (plain.count[0] == grads.record.count[0]).all()
    record_row('training', f'A gradient penalty (`autograd.grad(create_graph=True)` {where}): gradients',
               'yes, as autograd', '-', '-')

class Whole(Learner):
    "A loop of its own, without fastai's events"
    def _do_one_batch(self):
        self.pred = self.model(*self.xb)
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        self.loss = self.loss_grad.clone()
        if not self.training: return
        torch.autograd.grad(self.loss_grad, list(self.model.parameters())[0], create_graph=True)
        self.loss_grad.backward()
        self.opt.step()
        self.opt.zero_grad()

class SecondOrder(Learner):
    def _backward(self): self.loss_grad.backward(create_graph=True)

class OwnBackward(Callback):
    def before_backward(self):
        self.learn.loss_grad.backward()
        raise CancelBackwardException

class Twice(Callback):
    "A saliency map before the loss's pass, and a second pass after it, as SAM makes"
    def after_loss(self):
        if self.learn.training: self.learn.loss_grad.backward(retain_graph=True); self.learn.opt.zero_grad()
    def before_step(self):
        before = [p.grad.clone() for p in self.model.parameters()]
        self.learn.loss_func(self.model(*self.xb), *self.yb).backward()
        for p, g in zip(self.model.parameters(), before): p.grad = g

@pytest.mark.filterwarnings('ignore:Using backward.. with create_graph=True')
@pytest.mark.parametrize('kind,cbs', [(Whole, []), (SecondOrder, []), (Learner, [OwnBackward]), (Learner, [Twice])],
                         ids=['own loop', 'create_graph', 'own backward', 'three passes'])
def test_loops_of_their_own_are_recorded_as_fastais(few, settings, kind, cbs):
    runs = {}
    for name, make, more in (('fastai', Learner, []), ('own', kind, cbs)):
        set_seed(settings.seed)
        few.train.rng.seed(settings.seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.Tanh(), nn.Linear(16, 10))
        learn = make(few, model, loss_func=CrossEntropyLossFlat(), cbs=[GradStats(nn.Linear), *[cb() for cb in more]],
                     opt_func=SGD)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, settings.lr)
        runs[name] = learn.grad_stats.record
    assert torch.equal(runs['fastai'].summary.rows, runs['own'].summary.rows) and (runs['own'].count > 0).all()

def test_gradients_by_sample_record_nothing(learner, settings, record_row):
    from torch.func import functional_call, grad, vmap
    class BySample(Callback):
        seen = 0
        def before_backward(self):
            params = {n: p.detach() for n, p in self.model.named_parameters()}
            loss = lambda ps, x, y: self.loss_func(functional_call(self.model, ps, (x[None],)), y[None])
            norms = vmap(grad(loss), (None, 0, 0))(params, self.xb[0].as_subclass(torch.Tensor),
                                                   self.yb[0].as_subclass(torch.Tensor))
            self.seen += len(norms)
    models = seeded(*(nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10)) for _ in range(2)))
    plain, sampled = (fitted(learner, settings, [GradStats(), *cbs], model=m)
                      for m, cbs in zip(models, ([], [BySample()])))
    assert torch.equal(plain.grad_stats.record.summary.rows, sampled.grad_stats.record.summary.rows)
    assert sampled.by_sample.seen
    record_row('training', 'Gradients by sample (`vmap(grad(...))`): gradients', 'yes, of the loss only', '-', '-')
