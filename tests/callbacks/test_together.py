"""All observing callbacks at once: training stays as it was, and records stand what ActStats stands."""
import copy
import io
import pickle

import numpy as np
import pytest
import torch
from fastai.basics import Callback, CancelFitException, set_seed
from helpers import LossTrace, hooks_on
from torch.utils._python_dispatch import TorchDispatchMode

from fastai_actstats.all import ActStats, DeadUnits, GradStats, WeightStats


def everything(): return [ActStats(phase='both'), GradStats(), WeightStats(), DeadUnits(window=5)]
def watching(learn): return learn.act_stats, learn.grad_stats, learn.weight_stats, learn.dead_units

def recorded(cb):
    "All that a callback recorded, as a list of arrays"
    if isinstance(cb, DeadUnits):
        rec = cb.record
        return [rec.columns, rec.rows.numpy(), rec.alive_steps, *(np.stack(rec.fates(n)) for n in rec.channels)]
    return [o for rec in ([cb.record, cb.grads, cb.updates] if isinstance(cb, WeightStats) else [cb.record])
            for o in (rec.columns, rec.summary.rows.numpy())]

def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=x.dtype.kind == 'f') for x, y in zip(a, b))

class Trace(LossTrace):
    "Gradients of every batch too"
    def before_fit(self): self.grads = []
    def before_step(self): self.grads += [p.grad.clone() for p in self.learn.model.parameters()]

def test_training_is_bit_identical(learner, settings):
    runs = []
    for cbs in ([], everything()):
        learn = learner([*cbs, trace := Trace()])
        set_seed(settings.seed)
        learn.fit_one_cycle(2, settings.lr)
        runs.append([*trace.seen, *trace.grads, *learn.model.state_dict().values(), torch.get_rng_state()])
        state = np.random.get_state()[1]
        runs[-1].append(torch.from_numpy(state.astype('int64')))
    assert len(runs[0]) == len(runs[1]) > 100 and all(map(torch.equal, *runs))
    assert not hooks_on(learn.model) and '_do_epoch' not in vars(learn)
    assert all(cb.accumulator.step == 28 for cb in watching(learn))

class Reads(TorchDispatchMode):
    "Counts the calls that read a value of a tensor to the host"
    def __init__(self): super().__init__(); self.n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default,
                           torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default,
                           torch.ops.aten.masked_select.default)
        return func(*args, **(kwargs or {}))

def test_no_value_is_read_back_while_it_trains(learner, settings):
    counts = []
    for cbs in ([], everything()):
        learn = learner(cbs)
        with Reads() as reads: learn.fit(1, settings.lr)
        counts.append(reads.n)
    assert counts[0] == counts[1] > 0
    with Reads() as reads: torch.ones(3)[1].item()
    assert reads.n == 1

@pytest.mark.filterwarnings('ignore:numpy.core is deprecated')  # as fastai loads the weights it saved
def test_lr_find_and_evaluations_leave_records_alone(learner, settings):
    learn = learner(everything())
    learn.fit(1, settings.lr)
    before, steps = [recorded(cb) for cb in watching(learn)], [cb.accumulator.step for cb in watching(learn)]
    learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None)
    learn.validate()
    learn.get_preds()
    assert all(map(same, before, map(recorded, watching(learn))))
    assert [cb.accumulator.step for cb in watching(learn)] == steps == [14]*4
    learn.fit(1, settings.lr)
    assert all(cb.record.steps[-1, 1] == 27 and cb.record.fits[-1] == 1 for cb in watching(learn)), "one time line"

@pytest.mark.slow
@pytest.mark.parametrize('event,error', [('after_pred', RuntimeError), ('after_backward', KeyboardInterrupt),
                                         ('before_step', CancelFitException), ('before_step', RuntimeError),
                                         ('after_step', KeyboardInterrupt), ('after_batch', CancelFitException)])
def test_nothing_is_left_whatever_ends_the_fit(learner, settings, event, error):
    class Break(Callback):
        def fail(self):
            if self.learn.training and self.learn.train_iter == 3 + (event == 'after_batch'): raise error('enough')
    setattr(Break, event, lambda self: self.fail())
    learn = learner([*everything(), stop := Break()])
    try: learn.fit(1, settings.lr)
    except (KeyboardInterrupt, RuntimeError): pass
    assert not hooks_on(learn.model) and '_do_epoch' not in vars(learn) and learn.weight_stats._before is None
    assert not any(p._backward_hooks for p in learn.model.parameters())
    assert learn.act_stats.accumulator.step == learn.grad_stats.accumulator.step == learn.dead_units.accumulator.step
    learn.remove_cb(stop)
    learn.fit(1, settings.lr)
    assert all(cb.record.fits[-1] == 1 for cb in watching(learn))

def test_pickles_and_copies_go_on(learner, settings):
    learn = learner(everything())
    learn.logger = print
    learn.fit(1, settings.lr)
    before = [recorded(cb) for cb in watching(learn)]
    buffer = io.BytesIO()
    torch.save(learn, buffer)  # as `learn.export` does
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    for other in (again, copy.deepcopy(learn)):
        assert all(map(same, before, map(recorded, watching(other))))
        for cb in watching(other): assert cb.learn is other
    for b, cb in zip(before, watching(learn)): assert same(b, recorded(pickle.loads(pickle.dumps(copy.deepcopy(cb)))))
    learn.fit(1, settings.lr/10)
    assert not any(map(same, before, map(recorded, watching(learn)))) and same(before[3], recorded(again.dead_units))
    again.fit(1, settings.lr/10)
    assert all(cb.record.steps[-1, 1] == 27 for cb in watching(again))

def test_reset(learner, settings):
    class Reset(Callback):
        def after_batch(self):
            if self.learn.training and self.learn.train_iter == 3: [cb.reset() for cb in watching(self.learn)]
    learn = learner([*everything(), Reset()])
    learn.fit(1, settings.lr)
    assert all(len(cb.record) == 0 for cb in watching(learn)[1:]), "until the next epoch"
    learn.remove_cb(Reset)
    learn.fit(1, settings.lr)
    assert all(len(cb.record) and 'MiB' in repr(cb) for cb in watching(learn))
    for cb in watching(learn): cb.reset()
    assert all(len(cb.record) == 0 and 'nothing recorded' in repr(cb) for cb in watching(learn))

def test_memory_is_fixed(learner, settings):
    cbs = [GradStats(capacity=4), WeightStats(capacity=4), DeadUnits(window=1, capacity=4)]
    learn = learner(cbs)
    learn.fit(1, settings.lr)
    size = [cb.accumulator.nbytes for cb in cbs]
    learn.fit(2, settings.lr)
    assert [cb.accumulator.nbytes for cb in cbs] == size
    assert all(2 <= len(cb.record) <= 4 and cb.record.steps[-1, 1] == 41 for cb in cbs)
