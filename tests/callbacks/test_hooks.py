"""Hooks that nothing breaks: transforms, scripts, containers, callbacks that come and go, memory that runs out."""
import os
import subprocess
import sys
import time

import pytest
import torch
from fastai.basics import Callback, set_seed
from helpers import ROOT, LossTrace, hooks_on, run_script
from torch import nn

from fastai_actstats.all import ActSample, ActStats, DeadUnits, GradStats, LiveStats, StopOnTrouble, WeightStats
from fastai_actstats.callbacks.loggers import StatsLogger
from fastai_actstats.callbacks.sinks import Sink
from fastai_actstats.core.layers import first_float

BATCHES = 14  # of `few`

def small(extra=None):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), *([extra] if extra else []), nn.Linear(20, 10))

# Transforms of torch.func

class Transformed(nn.Module):
    "Calls its layer once as usual and again within a transform"
    def __init__(self, kind):
        super().__init__()
        self.lin, self.kind = nn.Linear(20, 20), kind
    def forward(self, x):
        y, f = self.lin(x), lambda v: self.lin(v).sum()
        with torch.no_grad(): z = x.detach().clone()
        if self.kind == 'grad': extra = torch.func.grad(f)(z)
        elif self.kind == 'per-sample':
            def loss(params, v): return torch.func.functional_call(self.lin, params, (v[None],)).pow(2).sum()
            extra = torch.func.vmap(torch.func.grad(loss), (None, 0))(dict(self.lin.named_parameters()), z)['bias']
        elif self.kind == 'jvp': extra = torch.func.jvp(self.lin, (z,), (torch.ones_like(z),))[1]
        elif self.kind == 'vmap': extra = torch.func.vmap(self.lin)(z)
        elif self.kind == 'jacrev': extra = torch.func.jacrev(f)(z)
        return y + 1e-3*extra.detach()

@pytest.mark.parametrize('kind', ['grad', 'per-sample', 'jvp', 'vmap', 'jacrev'])
def test_calls_within_a_transform_are_not_recorded(kind, learner, settings, record_row):
    def trained(*cbs):
        set_seed(settings.seed)
        learn = learner([*cbs, LossTrace()], model=small(Transformed(kind)))
        learn.fit(1, settings.lr)
        return learn
    alone, learn = trained(), trained(ActStats(), GradStats(), DeadUnits('3.lin'))
    assert torch.equal(torch.stack(alone.loss_trace.seen), torch.stack(learn.loss_trace.seen))
    for rec in (learn.act_stats.record, learn.grad_stats.record):
        assert len(rec) == BATCHES and (rec['3.lin'].count == 64*20).all() and (rec.count > 0).all()
    assert (learn.dead_units.record['3.lin'].count == 64*BATCHES).all() and not hooks_on(learn.model)
    record_row('training', f'a layer called within torch.func: {kind}', 'yes, its own calls', 'yes', 'yes')

class Plainly(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.lin, self.how, self.seen = nn.Linear(20, 20), how, []
    def forward(self, x):
        if self.how == 'functional_call': y = torch.func.functional_call(self.lin, {'bias': self.lin.bias + 1}, (x,))
        elif self.how == 'inference_mode':
            with torch.inference_mode(): self.seen.append(self.lin(x).double().mean().item())
            return x
        else:
            with torch.autograd.forward_ad.dual_level():
                dual = torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x))
                y = torch.autograd.forward_ad.unpack_dual(self.lin(dual)).primal
        self.seen.append(y.detach().double().mean().item())
        return y

@pytest.mark.parametrize('kernel', ['auto', 'eager'])
@pytest.mark.parametrize('how', ['functional_call', 'inference_mode', 'forward mode'])
def test_other_ways_to_call_a_layer_are_recorded(how, kernel, learner, settings, record_row):
    part = Plainly(how)
    learn = learner(ActStats('3.lin', kernel=kernel), model=small(part))
    learn.fit(1, settings.lr)
    rec = learn.act_stats.record
    assert rec.mean[:, 0] == pytest.approx(part.seen[:BATCHES], rel=1e-6) and (rec.count == 64*20).all()
    record_row('training', f'a layer called by {how}', 'yes', 'yes', 'yes')

# TorchScript

class Taught(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 20), nn.Linear(20, 20)
    def forward(self, x): return self.b(torch.relu(self.a(x)))

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*torch.jit', 'ignore:.*deprecat')
@pytest.mark.parametrize('make', [lambda m: torch.jit.script(m), lambda m: torch.jit.trace(m, torch.randn(64, 20))],
                         ids=['scripted', 'traced'])
def test_scripts(make, learner, settings, record_row, request):
    script = make(Taught())
    learn = learner([ActStats(['1', '3', '3.a', '3.b']), GradStats(['1', '3', '3.b']), WeightStats()],
                    model=small(script))
    want = []
    handle = learn.model[4].register_forward_pre_hook(
        lambda m, args: want.append(args[0].detach().double().mean().item()) if m.training else None)
    with pytest.warns(UserWarning, match='TorchScript') as told: learn.fit(2, settings.lr)
    handle.remove()
    assert len(told) == 1 and '3.a, 3.b' in str(told[0].message)
    rec = learn.act_stats.record
    assert rec.layers == ['1', '3'] and rec['3'].mean[:, 0] == pytest.approx(want, rel=1e-6)
    assert learn.grad_stats.record.layers == ['1', '3']
    assert len(learn.weight_stats.record) == 2*BATCHES and not hooks_on(learn.model)
    record_row('training', f"{request.node.callspec.id} part of a model", 'yes, but for layers within it', 'yes', 'yes')

# Callbacks that come and go

class At(Callback):
    "Does something once, at an event of an epoch and batch"
    def __init__(self, event, act, epoch=0, batch=3, order=-30):
        self.event, self.act, self.epoch_, self.batch, self.order, self.done = event, act, epoch, batch, order, False
    def __call__(self, event):
        inner = event in 'before_batch after_pred after_loss after_backward after_step after_batch'.split()
        if event == self.event and not self.done and self.learn.epoch == self.epoch_ and (
                not inner or (self.learn.training and self.learn.iter == self.batch)):
            self.done = True
            self.act(self.learn)

EVENTS = ('before_epoch before_train before_batch after_pred after_backward after_step after_batch after_train '
          'before_validate after_epoch').split()

def nothing_left(learn):
    assert not hooks_on(learn.model) and 'all_batches' not in vars(learn)

@pytest.mark.slow
def test_an_interrupt_amid_no_grad_leaves_gradients_on(learner):
    def act(learn):
        torch.set_grad_enabled(False)  # as one does between the two ends of a `no_grad`
        raise KeyboardInterrupt
    learn = learner([ActStats(), At('after_pred', act)])
    with pytest.raises(KeyboardInterrupt): learn.fit(1, 1e-3)
    assert torch.is_grad_enabled()
    nothing_left(learn)

@pytest.mark.parametrize('event,order', [('before_epoch', -30), ('before_batch', -30), ('after_backward', -30),
                                         ('after_batch', -30), ('after_train', 70), ('after_epoch', -30),
                                         ('before_batch', 70), ('after_backward', 70)])
def test_callbacks_removed_in_the_middle_of_a_fit(event, order, learner, settings, record_row):
    cbs = [ActStats(phase='both'), GradStats(), WeightStats(), DeadUnits(), ActSample(),
           LiveStats(path=None, notebook=True, every=99),
           StopOnTrouble(('nonfinite',), every=2)]
    def act(learn): learn.remove_cbs(cbs)
    alone = learner(LossTrace())
    alone.fit(2, settings.lr)
    learn = learner([*cbs, LossTrace(), At(event, act, order=order)])
    learn.fit(2, settings.lr)
    nothing_left(learn)
    assert torch.equal(torch.stack(alone.loss_trace.seen), torch.stack(learn.loss_trace.seen))
    assert not any(cb in learn.cbs for cb in cbs)
    first = EVENTS.index(event)
    inner = BATCHES if first >= EVENTS.index('after_train') else 0 if first < 2 else 3
    if inner == 3: inner += event == 'after_batch' or first >= EVENTS.index('after_backward')  # its gradients were made
    rec = cbs[0].record
    rec = rec.train if len(rec) else rec
    if (event, order) == ('after_backward', -30): inner -= 1  # before it heard of them
    assert len(rec) == inner and (not inner or (rec.count[:, 0] == 64*8*14*14).all())
    assert len(cbs[1].record) == len(rec)
    learn.add_cbs(cbs)
    learn.fit(1, settings.lr)
    nothing_left(learn)
    assert len(cbs[0].record.train) == BATCHES + inner and cbs[0].record.fits.max() == int(inner > 0)
    record_row('endings', f'callbacks removed at {event}', 'yes', 'yes', 'yes')

class Journal(Sink):
    def __init__(self): self.steps = []
    def open(self, learn): self.steps.append('open')
    def scalars(self, step, values): self.steps.append(step)

@pytest.mark.slow
@pytest.mark.parametrize('event', ['before_epoch', 'before_batch', 'after_batch', 'before_validate', 'after_epoch'])
def test_callbacks_added_in_the_middle_of_a_fit(event, learner, settings, tmp_path, record_row):
    cbs = [ActStats(), GradStats(), WeightStats(), DeadUnits(), ActSample(), LiveStats(tmp_path/'live.png', every=99),
           StopOnTrouble(('nonfinite',), every=2), StatsLogger(journal := Journal())]
    alone = learner(LossTrace())
    alone.fit(2, settings.lr)
    learn = learner([LossTrace(), At(event, lambda learn: learn.add_cbs(cbs))])
    learn.fit(2, settings.lr)
    nothing_left(learn)
    assert torch.equal(torch.stack(alone.loss_trace.seen), torch.stack(learn.loss_trace.seen))
    for cb in cbs[:3]: assert len(cb.record) == BATCHES and cb.record.epochs.max() == 0, cb  # of the epoch after
    assert len(learn.dead_units.record) == 1 and len(learn.act_sample.sample.index) and (tmp_path/'live.png').exists()
    assert journal.steps[0] == 'open' and journal.steps[-1] == BATCHES - 1
    assert learn.stop_on_trouble.reason is None
    learn.fit(1, settings.lr)
    assert len(learn.act_stats.record) == 2*BATCHES and learn.act_stats.record.fits.max() == 1
    record_row('endings', f'callbacks added at {event}', 'yes, from the next epoch on', 'yes', 'yes')

def test_a_callback_that_cannot_begin_in_the_middle_of_a_fit_stands_aside(learner, settings):
    learn = learner(At('before_train', lambda learn: learn.add_cb(ActStats('nothing*'))))
    why = "act_stats, added in the middle of a fit, stands aside: layers='nothing\\*' matches none"
    with pytest.warns(UserWarning, match=why) as told:
        learn.fit(4, settings.lr)
    assert len(told) == 1 and not len(learn.act_stats.record)
    nothing_left(learn)
    with pytest.raises(ValueError, match='matches none'): learn.fit(1, settings.lr)

def test_one_callback_on_two_learners_in_turn(learner, settings, record_row):
    cb = ActStats()
    one = learner(cb)
    one.fit(1, settings.lr)
    two = learner(cb)
    assert cb.learn is two and cb not in one.cbs and not hasattr(one, 'act_stats')
    two.fit(1, settings.lr)
    assert len(cb.record) == 2*BATCHES
    with pytest.warns(UserWarning, match='act_stats was put on another learner, so it does not watch this fit') as told:
        one.fit(2, settings.lr)
    assert len(told) == 1 and len(cb.record) == 2*BATCHES
    one.add_cb(cb)
    one.fit(1, settings.lr)
    assert len(cb.record) == 3*BATCHES and cb not in two.cbs
    nothing_left(one)
    nothing_left(two)
    record_row('endings', 'a callback put on another learner between fits', 'yes', '-', 'yes')

@pytest.mark.parametrize('event', ['before_batch', 'after_batch', 'after_train', 'after_epoch'])
def test_one_callback_on_two_learners_nested(event, learner, settings, record_row):
    cb, seen = ActStats(), []
    def nest(learn):
        try: learner(cb).fit(1, settings.lr)
        except ValueError as e: seen.append(str(e))
    learn = learner([cb, At(event, nest)])
    learn.fit(2, settings.lr)
    nothing_left(learn)
    if event.endswith('batch'):
        assert seen == ['act_stats watches a fit that is under way: another learner takes a callback of its own']
        assert len(cb.record) == 2*BATCHES and (cb.record.count[:, 0] == 64*8*14*14).all()
    else: assert not seen and len(cb.record) == 2*BATCHES  # its first epoch here, and the other learner's
    record_row('endings', f'a callback put on another learner at {event}', 'yes', '-', 'yes')

def test_what_goes_wrong_between_epochs_is_warned_of_once(learner, settings):
    class Broken(ActStats):
        times = 0
        def taps(self):
            self.times += 1
            if self.times > 1: raise LookupError('no such module')
            return super().taps()
    learn = learner(Broken())
    with pytest.warns(UserWarning, match='broken does not record all of this fit: no such module') as told:
        learn.fit(3, settings.lr)
    assert len(told) == 1 and len(learn.broken.record) == BATCHES
    nothing_left(learn)

# What layers return

def test_containers_that_contain_themselves():
    x = torch.randn(2)
    ring = [1]
    ring.append({'ring': ring})
    assert first_float(ring) is None
    ring.append(('after', x))
    assert first_float(ring) is x
    deep = x
    for _ in range(50_000): deep = [deep]
    assert first_float(deep) is None  # no layer's output is as deep
    assert first_float(torch) is None or first_float(torch) is not None  # ends

@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_in_a_hook_is_not_swallowed(error, learner, settings):
    def pick(output): raise error()
    learn = learner(ActStats(pick=pick))
    with pytest.raises(error): learn.fit(1, settings.lr)
    nothing_left(learn)

SECONDS = float(os.environ.get('ACTSTATS_FUZZ_SECONDS', 5))

def fuzz(seconds, seed):
    done = subprocess.run([sys.executable, '-W', 'ignore', 'tests/fuzz_outputs.py', str(seconds), str(seed)], cwd=ROOT,
                          capture_output=True, text=True,
                          timeout=seconds + 120)
    assert (done.returncode == 0
            and done.stdout.endswith('ok\n')), f'{done.returncode}: {done.stdout}{done.stderr[-3000:]}'

@pytest.mark.slow
def test_whatever_a_layer_returns(record_row):
    fuzz(SECONDS, time.time_ns() % 10**9)
    record_row('faults', 'a layer that returns anything at all', 'yes, where it holds floats', 'yes', 'yes')

# Memory

FULL = """
import resource
from torch import nn
from fastai_actstats.all import *
def size(): return int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()
class Big(nn.Module):
    calls = 0
    def forward(self, x):
        self.calls += 1
        big = torch.zeros(2**25, 3)[:, :2]  # to be copied before it can be reduced
        little = size() + 2**26
        if self.training and self.calls in (3, 4):
            resource.setrlimit(resource.RLIMIT_AS, (little, resource.RLIM_INFINITY))
        return big
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.big, self.lin = Big(), nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    def forward(self, x):
        self.big(x)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,)*2)
        return self.lin(x)
from fastai.basics import DataLoaders
from torch.utils.data import TensorDataset
data = TensorDataset(torch.randn(6, 1, 28, 28), torch.arange(6))
dls = DataLoaders.from_dsets(data, data, bs=1, num_workers=0, device='cpu')
learn = Learner(dls, Model(), loss_func=CrossEntropyLossFlat(), cbs=ActStats(['big', 'lin.1']))
with learn.no_bar(), learn.no_logging(), warnings.catch_warnings(record=True) as told:
    warnings.simplefilter('always')
    learn.fit(1, 1e-3)
rec = learn.act_stats.record
print([str(w.message).split(': ')[0] for w in told if 'left out' in str(w.message)])
print((rec['big'].count[:, 0]/2**26).tolist(), rec['lin.1'].count[:, 0].tolist(), hooks_on(learn.model))
"""

@pytest.mark.slow
def test_memory_that_runs_out_costs_one_batch_of_one_layer(record_row):
    done = run_script(FULL)
    told, counts, *_ = done.stdout.split('\n') + ['', '']
    assert told == "[\"a batch of layer 'big' is left out of the record\"]", done.stdout + done.stderr[-3000:]
    assert counts == '[1.0, 1.0, 0.0, 0.0, 1.0, 1.0] [10, 10, 10, 10, 10, 10] []'
    record_row('faults', "no memory for a copy: a limit on the process's address space",
               'yes, but for that batch of that layer', 'yes', 'yes')

def test_memory_that_runs_out_in_one_of_two_calls(learner, settings):
    "What was folded of the layer before, in the same batch, goes too"
    calls = [0]
    def pick(output):
        calls[0] += 1
        if calls[0] == 6: raise torch.OutOfMemoryError('full')
        return output
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(20, 20)
        def forward(self, x): return self.lin(self.lin(x))
    learn = learner([ActStats('3.lin', pick=pick)], model=small(Twice()))
    with pytest.warns(UserWarning, match="a batch of layer '3.lin' is left out of the record: full"):
        learn.fit(1, settings.lr)
    assert len(learn.act_stats.record) == BATCHES - 1 or learn.act_stats.record.count[:, 0].tolist().count(0) == 1
    assert set(learn.act_stats.record.count[:, 0].tolist()) <= {0, 2*64*20}

# torch.compile and random numbers

COMPILED = """
import torch._inductor.config as config
from torch import nn
from fastai.basics import DataLoaders
from torch.utils.data import TensorDataset
from fastai_actstats.all import *
def trained(cbs, first, fallback, later):
    torch._dynamo.reset()
    set_seed(1)
    data = TensorDataset(torch.randn(64, 1, 14, 14), torch.randint(0, 10, (64,)))
    model = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), first, nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
                          nn.Flatten(), nn.Dropout(), nn.Linear(256, 10))
    dls = DataLoaders.from_dsets(data, bs=32, num_workers=0, device='cpu')
    learn = Learner(dls, torch.compile(model), loss_func=CrossEntropyLossFlat(), cbs=cbs)
    learn.dls.loaders.append(learn.dls.train.new(shuffle=False))
    set_seed(2)
    patched = config.patch(fallback_random=fallback)
    with learn.no_bar(), learn.no_logging(), patched, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        learn.fit(1, 1e-2)
    told = [w for w in told if 'fallback_random' in str(w.message)]
    return torch.cat([p.detach().flatten() for p in model.parameters()] + [torch.get_rng_state().float()]), len(told)
for first, fallback in ((nn.Dropout2d(.2), True), (nn.Dropout2d(.2), False), (nn.Dropout(.2), False)):
    (alone, _), (watched, told) = (trained(cbs, first, fallback, 1) for cbs in ([], [ActStats()]))
    print(torch.equal(alone, watched), told)
"""

@pytest.mark.slow
def test_random_numbers_of_compiled_graphs(record_row):
    done = run_script(COMPILED)
    same, warned, plain = done.stdout.split('\n')[:3]
    assert same == 'True 0' and warned.endswith(' 1') and plain == 'True 0', done.stdout + done.stderr[-3000:]
    record_row('training', 'torch.compile with inductor and dropout, fallback_random = True', 'yes', 'yes', 'yes')
    record_row('training', 'torch.compile with inductor and Dropout2d', 'yes',
               'other random numbers, warned of before', 'yes')
