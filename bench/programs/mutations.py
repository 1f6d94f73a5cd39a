"""What goes wrong with programs: operators that change a `Program` before its `Learner` is made, or its training

Each says where the fault is and what a report that leads to it may call it. Sources: DeepCrime's operators of mutation
testing (Humbatova et al. 2021, marked D), AUTOTRAINER's five kinds (Zhang et al. 2021, A), DeepFD's posts (Cao et al.
2022, F), and what practitioners report (P). `seen=False`: nothing of it is in activations, gradients, weights or loss
that would tell it from a healthy run of a harder task; these are counted apart."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from fastai.basics import SGD, Callback
from fastai.callback.training import GradientClip
from torch import nn


@dataclass
class Mutation:
    apply:Callable # (Program) -> glob of the layers that have it or a list of such; None: nothing to mutate
    findings:tuple # What may name it
    source:str # See above
    seen:bool=True

MUTATIONS = {}

def mutation(*findings, source='P', seen=True):
    def add(f):
        MUTATIONS[f.__name__] = Mutation(f, findings, source, seen)
        return f
    return add

# parts of a program

WEIGHTED = nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.Embedding
ACTIVATIONS = nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid
NORMS = nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm

def named(model, kinds): return [(n, m) for n, m in model.named_modules() if isinstance(m, kinds)]

def middle(program):
    "Name and module of a layer with weights amid the network; None where there are fewer than three"
    layers = named(program.model, WEIGHTED[:-1])
    return layers[len(layers)//2] if len(layers) > 2 else None

def replace(model, name, new):
    parent, _, own = name.rpartition('.')
    setattr(model.get_submodule(parent), own, new)

def replace_all(program, kinds, new):
    found = named(program.model, kinds)
    for name, m in found: replace(program.model, name, new(m))
    return '*' if found else None

def weights(model, kinds=WEIGHTED):
    for _, m in named(model, kinds):
        for n, p in m.named_parameters(recurse=False):
            if p.ndim > 1: yield n, p

@torch.no_grad()
def scale(model, by):
    for _, p in weights(model): p *= by

def halfway(learn): return max(3, learn.n_epoch*len(learn.dls.train)//2)

class At(Callback):
    "Does something at one step, or at some from the middle of the run on"
    order, steps = 30, 1
    def before_fit(self): self.first, self.step = halfway(self.learn), 0
    def before_batch(self):
        if self.training and self.first <= self.step < self.first + self.steps: self.change()
    def after_batch(self): self.step += self.training

def tensors(program): return program.dls.train_ds.dataset.tensors

def change_inputs(program, change):
    n, ts = program.dls.n_inp, tensors(program)
    if not any(t.is_floating_point() for t in ts[:n]): return None
    program.dls.train_ds.dataset.tensors = tuple(
        change(t) if i < n and t.is_floating_point() else t for i, t in enumerate(ts))
    return '*'

def times(lr, by): return slice(lr.start*by, lr.stop*by) if isinstance(lr, slice) else lr*by

def uses_adam(program): return getattr(program.opt, 'func', program.opt) is not SGD

# the optimiser and its schedule

UNSTABLE = 'diverging', 'exploding', 'bumpy', 'update-size', 'oscillating', 'nonfinite', 'learning-rate'

@mutation(*UNSTABLE, 'dead', 'plateau', 'saturated', source='D A F')
def lr_times_100(p):
    p.lr = times(p.lr, 100)
    return '*'

@mutation('slow', 'update-size', 'plateau', source='D A F')
def lr_by_100(p):
    p.lr = times(p.lr, .01)
    return '*'

@mutation(*UNSTABLE, source='P')
def momentum_999(p):
    if uses_adam(p): return None
    opt = p.opt.func
    p.opt = lambda params, lr, **kw: opt(params, lr, **(kw | dict(mom=.999)))
    p.flat = True  # a one-cycle schedule sets the momentum itself
    return '*'

@mutation('slow', 'update-size', 'plateau', source='P')
def adam_epsilon_1(p):
    if not uses_adam(p): return None
    opt = p.opt
    p.opt = lambda params, lr, **kw: opt(params, lr, **(kw | dict(eps=1.)))
    return '*'

@mutation('shrinking-weights', source='D')
def decay_far_too_large(p):
    lr = p.lr.stop if isinstance(p.lr, slice) else p.lr
    p.kwargs = p.kwargs | dict(wd=.1/lr)
    return '*'

class KeepsGradients(Callback):
    "`zero_grad` is forgotten"
    def before_fit(self): self.learn.opt.zero_grad = lambda: None

@mutation('stale-gradients', *UNSTABLE, source='P')
def no_zero_grad(p):
    p.cbs = [*p.cbs, KeepsGradients()]
    return '*'

@mutation('slow', 'update-size', 'plateau', source='P')
def clipped_to_nothing(p):
    if uses_adam(p): return None
    p.cbs = [*p.cbs, GradientClip(1e-3)]
    return '*'

class Spike(At):
    "The learning rate is a hundred times higher for five steps"
    order, steps = 61, 5  # after the schedule
    def change(self):
        for h in self.learn.opt.hypers: h['lr'] *= 100
    def after_step(self):
        if self.first <= self.step < self.first + self.steps:
            for h in self.learn.opt.hypers: h['lr'] /= 100

@mutation(*UNSTABLE, 'dead', source='P')
def lr_spike(p):
    p.cbs = [*p.cbs, Spike()]
    return '*'

# the loss

class Negated:
    def __init__(self, loss): self.loss = loss
    def __call__(self, *args): return -self.loss(*args)

@mutation('diverging', 'wrong-sign', 'exploding', source='P')
def wrong_sign(p):
    p.loss = Negated(p.loss)
    return '*'

class Finished(nn.Module):
    "A model whose output has one more function on it"
    def __init__(self, model, last): super().__init__(); self.model, self.last = model, last
    def forward(self, *x): return self.last(self.model(*x))

def last_layer(program): return named(program.model, WEIGHTED)[-1]

def on_last(program, act):
    name, layer = last_layer(program)
    if isinstance(layer, nn.Embedding) or type(program.model).__name__ in ('TwoHeads', 'Variational'): return None
    replace(program.model, name, nn.Sequential(layer, act))
    return [name, f'{name}.*']

@mutation('plateau', 'slow', 'saturated', 'target', source='D F')
def softmax_twice(p):
    if 'CrossEntropy' not in type(p.loss).__name__: return None
    return on_last(p, nn.Softmax(getattr(p.loss, 'axis', -1)))

@mutation('saturated', 'plateau', 'target', 'slow', source='D F')
def sigmoid_on_regression(p):
    if p.metric.__name__ != 'r2': return None
    return on_last(p, nn.Sigmoid())

@mutation('dead', 'plateau', source='F')
def relu_on_output(p): return on_last(p, nn.ReLU())

# activations

@mutation('vanishing', 'saturated', 'plateau', 'slow', 'bad-init', source='D A')
def sigmoids_for_all(p):
    return replace_all(p, tuple(a for a in ACTIVATIONS if a is not nn.Sigmoid), lambda m: nn.Sigmoid())

@mutation(source='D', seen=False)
def no_activations(p): return replace_all(p, ACTIVATIONS, lambda m: nn.Identity())

# how weights begin

@mutation('identical-units', 'bad-init', 'plateau', source='D F')
def constant_init(p):
    with torch.no_grad():
        for _, w in weights(p.model): w.fill_(.05)
    return '*'

@mutation('identical-units', 'bad-init', 'plateau', 'vanishing', 'frozen', source='D F')
def zero_init(p):
    scale(p.model, 0)
    return '*'

@mutation('bad-init', 'exploding', 'saturated', 'bumpy', 'diverging', 'nonfinite', source='D A')
def init_too_large(p):
    scale(p.model, 10)
    return '*'

@mutation('bad-init', 'vanishing', 'plateau', 'slow', source='D A')
def init_too_small(p):
    scale(p.model, .03)
    return '*'

def _scale_middle(p, by):
    if (found := middle(p)) is None: return None
    with torch.no_grad():
        for w in found[1].parameters(recurse=False):
            if w.ndim > 1: w *= by
    return found[0] + '*'

@mutation('bad-init', 'exploding', 'saturated', source='P')
def one_layer_too_large(p): return _scale_middle(p, 50)

@mutation('bad-init', 'vanishing', source='P')
def one_layer_too_small(p): return _scale_middle(p, .01)

@mutation('dead', source='A')
def bias_kills(p):
    before, found = None, None
    for n, m in p.model.named_modules():
        if isinstance(m, nn.ReLU) and before is not None and before[1].bias is not None: found = before
        if isinstance(m, (*WEIGHTED[:2], *NORMS)): before = n, m
    if found is None: return None
    with torch.no_grad(): found[1].bias.fill_(-30.)
    return ['*']

# what learns

@mutation('frozen', source='D')
def frozen_amid(p):
    if (found := middle(p)) is None: return None
    found[1].requires_grad_(False)
    return found[0] + '*'

def detach(module, args, output):
    return tuple(o.detach() for o in output) if isinstance(output, tuple) else output.detach()

@mutation('frozen', source='P')
def detached(p):
    if (found := middle(p)) is None or isinstance(found[1], nn.RNNBase): return None
    found[1].register_forward_hook(detach)
    return ['*']

@mutation('frozen', source='P')
def half_outside_of_optimiser(p):
    params = [w for w in p.model.parameters() if w.requires_grad]
    if len(params) < 4 or 'splitter' in p.kwargs: return None
    p.kwargs = p.kwargs | dict(splitter=lambda model: [params[len(params)//2:]])
    return ['*']

class Without(nn.Sequential):
    "Holds a module that it never calls"
    def forward(self, x):
        for n, m in self.named_children():
            if n != self.left_out: x = m(x)
        return x

@mutation('never-ran', source='P')
def norm_never_called(p):
    for name, _ in reversed(named(p.model, NORMS)):
        parent, _, own = name.rpartition('.')
        holder = p.model.get_submodule(parent)
        if type(holder) is nn.Sequential:
            holder.__class__, holder.left_out = Without, own
            return name
    return None

# the data

@mutation('input', 'bad-init', 'exploding', 'saturated', 'out-of-range', 'diverging', source='D P')
def input_times_255(p): return change_inputs(p, lambda x: x*255)

@mutation('input', 'bad-init', 'vanishing', 'slow', 'plateau', source='P')
def input_by_255(p): return change_inputs(p, lambda x: x/255)

class SpoiltBatch(At):
    def change(self): self.learn.xb = tuple(x*1e4 if x.is_floating_point() else x for x in self.xb)

@mutation('batch', 'bumpy', 'exploding', source='P')
def batch_times_1e4(p):
    if not any(t.is_floating_point() for t in tensors(p)[:p.dls.n_inp]): return None
    p.cbs = [*p.cbs, SpoiltBatch()]
    return '*'

class SpoiltTarget(At):
    def change(self): self.learn.yb = tuple(y*1e3 for y in self.yb)

@mutation('batch', 'target', 'bumpy', 'exploding', source='P')
def target_times_1000(p):
    if p.metric.__name__ not in ('r2', '<lambda>') or not tensors(p)[-1].is_floating_point(): return None
    p.cbs = [*p.cbs, SpoiltTarget()]
    return '*'

class NanSample(At):
    def change(self):
        self.learn.xb = tuple(x.clone().index_fill_(0, torch.tensor([0]), float('nan')) if x.is_floating_point() else x
                              for x in self.xb)

@mutation('nonfinite', source='P')
def nan_in_a_sample(p):
    if not any(t.is_floating_point() for t in tensors(p)[:p.dls.n_inp]): return None
    p.cbs = [*p.cbs, NanSample()]
    return '*'

@mutation(source='D', seen=False)
def labels_shuffled(p):
    ts = tensors(p)
    if len(ts) != p.dls.n_inp + 1: return None
    order = torch.randperm(len(ts[0]), generator=torch.Generator().manual_seed(0))
    keep = torch.arange(len(order)) % 2 == 0  # half of them
    y = torch.where(keep.view(-1, *[1]*(ts[-1].ndim - 1)), ts[-1][order], ts[-1])
    held_out = torch.tensor(p.dls.valid_ds.indices)
    y[held_out] = ts[-1][held_out]
    p.dls.train_ds.dataset.tensors = *ts[:-1], y
    return '*'

@mutation(source='D', seen=False)
def too_few_epochs(p):
    if p.epochs < 3: return None
    p.epochs = 1
    return '*'

# what happens on the way

class BlownUp(At):
    def __init__(self, module): self.module = module
    @torch.no_grad()
    def change(self):
        for w in self.module.parameters(): w *= 50

@mutation('layer', 'exploding', 'bumpy', 'diverging', 'saturated', 'dead', source='P')
def layer_blown_up(p):
    if (found := middle(p)) is None: return None
    p.cbs = [*p.cbs, BlownUp(found[1])]
    return found[0] + '*'

@mutation('plateau', 'slow', 'dead', 'near-zero', source='D')
def dropout_99(p):
    found = [m for _, m in named(p.model, nn.Dropout)]
    for m in found: m.p = .99
    return '*' if found else None

@mutation(*UNSTABLE, 'bad-init', 'vanishing', 'dead', source='P')
def no_norms(p): return replace_all(p, NORMS, lambda m: nn.Identity())

class Half(nn.Module):
    "A layer in float16, before which somebody forgot to scale"
    def __init__(self, layer): super().__init__(); self.layer = layer.half()
    def forward(self, x): return self.layer((x*1e5).half()).float()/1e5

@mutation('nonfinite', 'format', source='P')
def half_overflows(p):
    found = middle(p)
    if found is None or not isinstance(found[1], (nn.Linear, nn.Conv2d)): return None
    replace(p.model, found[0], Half(found[1]))
    return [found[0], found[0] + '.*']
