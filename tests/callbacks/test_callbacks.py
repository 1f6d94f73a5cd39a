"""Callbacks in every order of what is done with a learner, under names of their own, with what their record offers."""
import concurrent.futures
import contextlib
import inspect
import itertools
import os
import signal
import sys
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, Datasets, Learner
from fastai.callback import hook, schedule  # noqa: F401, give learners `summary` and `lr_find`
from helpers import Integers, hooks_on, quiet
from torch import nn

from fastai_actstats.all import (
    ActSample,
    ActStats,
    Bins,
    ChannelRecord,
    DeadUnits,
    GradStats,
    LiveStats,
    MlflowStats,
    Record,
    SaveRecord,
    StopOnTrouble,
    TensorBoardStats,
    TrackioStats,
    WandbStats,
    WeightStats,
    compare,
    diagnose,
)
from fastai_actstats.callbacks import live
from fastai_actstats.callbacks.base import StatsCallback

BATCH, TRAIN, VALID = 8, 3, 2  # values a batch, batches

def learner(path, cbs, model=None):
    torch.manual_seed(0)
    x, y = torch.randn(BATCH*(TRAIN + VALID), 6), torch.arange(BATCH*(TRAIN + VALID)) % 3
    splits = range(BATCH*TRAIN), range(BATCH*TRAIN, BATCH*(TRAIN + VALID))
    dls = Datasets(range(len(x)), [[lambda i: x[i]], [lambda i: y[i]]],
                   splits=splits).dataloaders(bs=BATCH, device=torch.device('cpu'), num_workers=0)
    model = model or nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    return quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=cbs, path=path))

# every order

class Break(Callback):
    "Raises after the forward pass of a batch"
    def __init__(self, error, training=True): self.error, self.at = error, training
    def after_pred(self):
        if self.learn.training != self.at or self.learn.iter != 1: return
        if hasattr(self.learn, 'lr_finder'): self.learn.lr_finder.tmp_d.cleanup()  # which fastai leaves behind
        raise self.error

class Count(Callback):
    "Batches of fits that went through, as one would count them by hand, while `watcher` is on the learner"
    order, _only_train_loop = -100, True
    def __init__(self, watcher): self.watcher, self.steps, self.epochs = watcher, 0, 0
    def mine(self):
        return self.watcher.learn is self.learn and not hasattr(self.learn,
                                                                'lr_finder') and not self.learn.lock.locked()
    def after_batch(self): self.steps += self.learn.training and self.mine()
    def after_epoch(self): self.epochs += self.mine()

def broken(error, training=True):
    def run(learn, cb):
        with pytest.raises(type(error)): learn.fit(1, 1e-3, cbs=Break(error, training))
    return run

def stopped_lr_find(learn, cb):
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.add_cb(stop := Break(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None)
    learn.remove_cb(stop)
    learn.model.load_state_dict(state)

DO = dict(fit=lambda learn, cb: learn.fit(1, 1e-3),
          lr_find=lambda learn, cb: learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None),
          validate=lambda learn, cb: learn.validate(),
          get_preds=lambda learn, cb: learn.get_preds(),
          predict=lambda learn, cb: learn.predict(0),
          summary=lambda learn, cb: learn.summary(),
          error=broken(RuntimeError('enough')),
          error_in_validation=broken(RuntimeError('enough'), False),
          ctrl_c=broken(KeyboardInterrupt()),
          ctrl_c_in_lr_find=stopped_lr_find,
          off=lambda learn, cb: learn.remove_cb(cb) if cb.learn else None,
          on=lambda learn, cb: None if cb.learn else learn.add_cb(cb))

def every_pair(names):
    "A sequence in which each of the names follows each, itself too"
    for i, a in enumerate(names):
        yield a
        for b in names[i + 1:]: yield from (a, b)
    yield names[0]

WATCHERS = dict(ActStats=ActStats, GradStats=GradStats, WeightStats=WeightStats, DeadUnits=lambda: DeadUnits(window=1),
                ActSample=lambda: ActSample(n=10), LiveStats=lambda: LiveStats('live.png', every=0, budget=1.),
                StopOnTrouble=lambda: StopOnTrouble(every=1), SaveRecord=SaveRecord,
                TensorBoardStats=lambda: TensorBoardStats('events'), WandbStats=WandbStats)

def check(learn, cb, count):
    "Is recorded, shown and written what went through?"
    assert not hooks_on(learn.model)
    if isinstance(cb, StatsCallback):
        rec = cb.record
        assert cb.accumulator.step == count.steps == len(rec) and rec.steps[:, 0].tolist() == list(range(count.steps))
        if count.steps and type(rec) is Record and not isinstance(cb, WeightStats):
            assert (rec.count == BATCH*np.array([8, 8, 3])).all()
        if isinstance(rec, ChannelRecord): assert (rec.count == BATCH).all()
    if isinstance(cb, StopOnTrouble): assert cb.reason is None and not cb.failed
    if not count.epochs: return
    if isinstance(cb, ActSample): assert len(cb.sample) == 10 and cb.sample.info['seen'] == BATCH*VALID
    if isinstance(cb, LiveStats): assert cb.path.exists()
    if isinstance(cb, SaveRecord): assert len(Record.load(learn.path/'run.npz'))
    if isinstance(cb, (TensorBoardStats, WandbStats)): assert set(cb.logged) == {'activations', 'run'}

@pytest.fixture(autouse=True)
def no_run_is_left():
    yield
    if 'wandb' in sys.modules and sys.modules['wandb'].run is not None: sys.modules['wandb'].finish()

def begin(names, path, monkeypatch):
    path.mkdir(exist_ok=True)
    monkeypatch.chdir(path)
    monkeypatch.setattr(live, 'live_figure', lambda rec, most: None)
    monkeypatch.setattr(live, 'png', lambda fig: b'a picture')
    if 'WandbStats' in names:
        import wandb
        monkeypatch.setenv('WANDB_SILENT', 'true')
        wandb.init(mode='disabled')
    cbs = [WATCHERS[name]() for name in names]
    learn = learner(path, [*cbs, count := Count(cbs[0])] + ([] if any(isinstance(cb, StatsCallback) for cb in cbs)
                                                            else [ActStats()]))
    return learn, cbs, count

def do(what, learn, cbs, count):
    if what in ('on', 'off'): [DO[what](learn, cb) for cb in cbs]
    else: DO[what](learn, cbs[0])
    for cb in cbs: check(learn, cb, count)
    if what != 'fit' or not cbs[0].learn: return
    for cb in cbs:  # a fit that went through is kept whole
        if isinstance(cb, SaveRecord): assert Record.load(learn.path/'run.npz') == learn.act_stats.record
        if isinstance(cb, (TensorBoardStats, WandbStats)):
            assert cb.logged['activations'] == learn.act_stats.record.steps[-1, 1]

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:numpy.core is deprecated')  # as fastai loads the weights it saved
@pytest.mark.parametrize('name', WATCHERS)
def test_whatever_is_done_first(name, tmp_path, monkeypatch):
    for first in DO:
        learn, cbs, count = begin([name], tmp_path/first, monkeypatch)
        for what in (first, 'on', 'fit'): do(what, learn, cbs, count)
        assert count.epochs >= 1

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:numpy.core is deprecated')
@pytest.mark.parametrize('names', [list(WATCHERS)[:5], list(WATCHERS)[5:]],
                         ids=['those that record', 'those that show and keep'])
def test_everything_after_everything(names, tmp_path, monkeypatch):
    learn, cbs, count = begin(names, tmp_path, monkeypatch)
    done = list(every_pair(list(DO)))
    assert set(itertools.pairwise(done)) == set(itertools.product(DO, DO))
    for what in done: do(what, learn, cbs, count)
    assert count.epochs > 5

@pytest.mark.parametrize('name', WATCHERS)
def test_added_and_removed_in_the_middle_of_a_fit(name, tmp_path, monkeypatch):
    learn, (cb,), _ = begin([name], tmp_path, monkeypatch)
    learn.remove_cb(cb)
    class Add(Callback):
        order = 90
        def after_batch(self):
            if self.learn.training and self.learn.iter == 0 and self.learn.epoch == 0: learn.add_cb(cb)
        def after_epoch(self):
            if self.learn.epoch == 2: learn.remove_cb(cb)
    learn.fit(4, 1e-3, cbs=Add())
    assert not hooks_on(learn.model)
    learn.add_cb(cb)
    learn.fit(1, 1e-3)
    # the two epochs after it came, and the last fit
    if isinstance(cb, StatsCallback): assert cb.record.columns['steps'].sum() == 3*TRAIN

@pytest.mark.parametrize('name', WATCHERS)
def test_an_evaluation_in_the_middle_of_a_fit(name, tmp_path, monkeypatch):
    learn, (cb,), count = begin([name], tmp_path, monkeypatch)
    class Look(Callback):
        order = 90
        def after_train(self):
            held = self.learn.dl, self.learn.recorder.log
            self.learn.get_preds(dl=self.learn.dls.valid)
            self.learn.dl, self.learn.recorder.log = held
    learn.fit(2, 1e-3, cbs=Look())
    check(learn, cb, count)
    if isinstance(cb, (TensorBoardStats, WandbStats)): assert cb.logged['activations'] == 2*TRAIN - 1

def test_an_epoch_that_an_exception_ended_buries_no_unit(tmp_path):
    "Units silent in the only batch of an epoch that was left are not dead, whatever epochs `lr_find` goes through"
    learn = learner(tmp_path, watch := DeadUnits(nn.ReLU))
    with torch.no_grad(): learn.model[0].bias[:3] = -99.
    broken(RuntimeError('enough'))(learn, watch)
    before = {n: np.stack(watch.record.fates(n)) for n in watch.record.channels}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.lr_find(num_it=3*TRAIN, show_plot=False, suggest_funcs=None)
    assert before and all((watch.record.fates(n) == f).all() for n, f in before.items())

# what a callback offers

def test_callbacks_offer_what_their_record_offers(tmp_path, monkeypatch):
    learn = learner(tmp_path, [ActStats(), GradStats(), WeightStats(), DeadUnits(), ActSample()])
    learn.fit(1, 1e-3)
    monkeypatch.setattr(Learner, 'save', lambda *args: pytest.fail('the model was saved'))
    monkeypatch.setattr(Learner, 'load', lambda *args: pytest.fail('a model was loaded'))
    for cb in (learn.act_stats, learn.grad_stats, learn.weight_stats, learn.dead_units, learn.act_sample):
        held = cb.sample if isinstance(cb, ActSample) else cb.record
        for name in (n for n in dir(held) if not n.startswith('_')):
            assert name in dir(cb) and getattr(cb, name, cb) is not cb, name
            own = name in vars(cb) or any(name in vars(c) for c in type(cb).__mro__
                                          if c.__module__.startswith('fastai_actstats'))
            if callable(getattr(held, name)) and not own:
                of = getattr(getattr(cb, name), '__self__', held)
                assert isinstance(of, type(held)) or of is type(held), name
        cb.save(tmp_path/'kept.npz')
        assert type(held).load(tmp_path/'kept.npz').layers == held.layers
        assert cb.load(tmp_path/'kept.npz').layers == held.layers
    act = learn.act_stats
    assert repr(act.report()) == repr(act.record.report()) and act.to_df().equals(act.record.to_df())
    assert act.epoch(0) == act.record.epoch(0)
    for picture in (act.heatmap, act.plot_stats, act.color_dim, learn.grad_stats.heatmap, act.first_last): picture()
    act.ridge(0)
    act.to_csv(tmp_path/'a.csv')
    assert len(act.overview()) == 3 and learn.weight_stats.mean.shape == learn.weight_stats.record.mean.shape
    assert len(learn.dead_units.report().df) >= 0

def test_what_neither_has_is_an_error_that_names_the_callback(tmp_path):
    learn = learner(tmp_path, [ActStats(), DeadUnits()])
    act = learn.act_stats
    # as callbacks of the user's may ask
    assert act.dls is learn.dls and act.model is learn.model and act.training is False and act.opt is None
    for name in ('fit_one_cycle', 'export', 'state_dict', 'no_such_thing'):
        with pytest.raises(AttributeError, match=f"ActStats has no attribute '{name}', and neither has its record"):
            getattr(act, name)
    with pytest.raises(AttributeError, match="DeadUnits has no attribute 'export'"): learn.dead_units.export('run.pkl')
    with pytest.raises(AttributeError, match='has no attribute'): _ = ActStats().dls
    class Wrong(ActStats):
        @property
        def record(self): raise AttributeError('its own words')
    with pytest.raises(AttributeError, match='its own words'): _ = Wrong().record

def test_a_record_is_not_changed(tmp_path):
    learn = learner(tmp_path, [ActStats(), WeightStats(), DeadUnits(), GradStats()])
    learn.fit(1, 1e-3)
    names = [rec.what for cb in learn.cbs if isinstance(cb, StatsCallback) for rec in cb.records]
    assert names == ['activations', 'weights', 'updates', 'weight gradients', 'channels', 'gradients']
    before = learn.weight_stats.grads
    diagnose(learn)
    assert learn.weight_stats.grads is before and before.what == 'weight gradients'
    for rec in (learn.act_stats.record, learn.dead_units.record):
        with pytest.raises(AttributeError, match=r'not changed after it is made: take replace\(info=...\)'):
            rec.info = {}
    rec = learn.act_stats.record
    assert rec.replace(what='others').what == 'others' and rec.what == 'activations' and rec.replace() == rec
    with pytest.raises(TypeError, match='color'): rec.replace(color='red')

def test_weight_gradients_of_before_are_compared_with_those_of_today(tmp_path):
    learn = learner(tmp_path, [WeightStats(), GradStats()])
    learn.fit(1, 1e-3)
    new = learn.weight_stats.grads
    new.replace(what='gradients').save(tmp_path/'old.npz')  # as they were called at first
    old = Record.load(tmp_path/'old.npz')
    assert compare(old=old, new=new).layers == new.layers
    with pytest.raises(ValueError, match='gradients and weight gradients are not compared'):
        compare(a=learn.grad_stats.record, b=new)

# two of a kind

def test_two_of_a_kind_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(live, 'live_figure', lambda rec, most: rec)
    monkeypatch.setattr(live, 'png', lambda rec: ' '.join(rec.layers).encode())
    linear, relu = ActStats(nn.Linear), ActStats(nn.ReLU, name='relu_stats')
    show = LiveStats(tmp_path/'live.png', notebook=False)
    learn = learner(tmp_path, [linear, relu, SaveRecord(), show, TensorBoardStats(tmp_path/'events')])
    assert learn.act_stats is linear and learn.relu_stats is relu
    learn.fit(1, 1e-3)
    assert Record.load(tmp_path/'run.npz').layers == ['0', '2', '4']
    assert Record.load(tmp_path/'run.relu_stats.npz').layers == ['1']
    assert (tmp_path/'live.png').read_text() == '0 2 4' and (tmp_path/'live.relu_stats.png').read_text() == '1'
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    tags = EventAccumulator(str(tmp_path/'events')).Reload().Tags()
    assert {'activations/0', 'activations/2', 'activations/4', 'relu_stats/activations/1'} == set(tags['histograms'])
    learn.remove_cb(relu)
    assert learn.act_stats is linear and 'relu_stats' not in vars(learn)

@pytest.mark.parametrize('kind', [ActStats, GradStats, WeightStats, DeadUnits, ActSample])
def test_the_second_without_a_name_gets_a_number_and_a_warning(kind, tmp_path):
    first, second, third = kind(), kind(), kind(name='mine')
    learn, name = learner(tmp_path, [first, third]), first.name
    with pytest.warns(UserWarning,
                      match=f"has a callback {name!r} already, so this one is learn.{name}_2; name= gives") as said:
        learn.add_cb(second)
    assert len(said) == 1 and getattr(learn, name) is first and getattr(learn, f'{name}_2') is second
    assert learn.mine is third
    with learn.removed_cbs([first, second]): assert name not in vars(learn) and f'{name}_2' not in vars(learn)
    back = getattr(learn, name), getattr(learn, f'{name}_2')
    assert back == (first, second), "put back under their names, without another warning"
    learn.fit(1, 1e-3)
    learn.remove_cb(kind)
    assert not {name, f'{name}_2', 'mine'} & set(vars(learn))

@pytest.mark.parametrize('name,error,match', [(3, TypeError, 'name=3 must be text'),
                                              ('', ValueError, "name='' must be a word"),
                                              ('a b', ValueError, "such as 'relu_stats'"),
                                              ('class', ValueError, 'must be a word'),
                                              ('_x', ValueError, 'must be a word')])
def test_names_that_cannot_be(name, error, match):
    for kind in (ActStats, GradStats, WeightStats, DeadUnits, ActSample):
        with pytest.raises(error, match=match): kind(name=name)

@pytest.mark.parametrize('name', ['model', 'dls', 'fit', 'cbs'])
def test_names_that_the_learner_has(name, tmp_path):
    with pytest.raises(ValueError, match=f"name='{name}' is taken: learn.{name} is the learner's own"):
        learner(tmp_path, ActStats(name=name))

def test_findings_of_two_of_a_kind_are_told_apart(tmp_path):
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(model[0].bias, -99.)
    learn = learner(tmp_path, [ActStats(nn.Linear), ActStats(nn.ReLU, name='relu_stats'), WeightStats('0'),
                               WeightStats('2', name='last')], model)
    learn.fit(5, 0.)
    found = diagnose(learn)
    assert {'act_stats: 0', 'relu_stats: 1'} <= set(found.df.layer[found.df.finding == 'dead'])
    # the gradients of layer 0 are zero, as it is dead
    assert set(found.df.layer[found.df.finding == 'frozen']) == {'last: 2'}
    assert 'activations (act_stats) of 2 layers' in found.looked
    assert 'activations (relu_stats) of 1 layer ' in found.looked

# what a report looked at

class Beside(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = nn.Linear(6, 3), Integers(), Integers()
    def forward(self, x):
        self.a(x), self.b(x)
        return self.body(x)

@pytest.mark.filterwarnings('ignore:layer .* is left out of the record')
def test_a_report_says_first_what_it_could_not_look_at(tmp_path):
    learn = learner(tmp_path, [ActStats(['a', 'b']), GradStats('body'), ActStats(['a', 'body'], name='some'),
                               DeadUnits(['a'])], Beside())
    learn.fit(1, 1e-3)
    none, some, units = learn.act_stats.report(), learn.some.report(), learn.dead_units.report()
    assert none.headline == "Nothing of activations could be looked at: all 2 layers were left out ('a', 'b')."
    assert not none
    assert some.headline == "Nothing found. Looked at activations of 1 layer over 3 steps (left out: 'a')."
    assert units.headline == "Nothing of channels could be looked at: all 1 layers were left out ('a')."
    whole = diagnose(learn).headline
    assert whole.startswith('Nothing of activations (act_stats) could be looked at')
    assert 'Nothing found. Looked at gradients of 1 layer over 3 steps' in whole
    learn.act_stats.record.save(tmp_path/'none.npz')
    assert Record.load(tmp_path/'none.npz').report().headline == none.headline

def test_nothing_found_is_said_of_what_was_looked_at_only(tmp_path):
    learn = learner(tmp_path, [ActStats(), GradStats()])
    assert diagnose(learn).headline == learn.act_stats.report().headline == 'Nothing is recorded.'
    learn.fit(1, 1e-3)
    assert diagnose(learn, 'dead').headline == 'Nothing found. Looked at activations of 3 layers over 3 steps.'
    assert learn.grad_stats.report('dead').headline == 'Nothing was looked at: these rules do not read gradients.'
    never = ActStats(['0', 'spare'])
    model = nn.Sequential(nn.Linear(6, 3))
    model.spare = nn.Linear(6, 3)
    model.forward = lambda x: model[0](x)
    learn = learner(tmp_path, never, model)
    learn.fit(1, 1e-3)
    assert 'never-ran' in set(never.report().df.finding) and 'activations of 1 of 2 layers' in never.report().headline

# read in another thread

@pytest.mark.slow
def test_reading_in_another_thread_loses_nothing(tmp_path, record_row):
    """A reader thread against fits: every value is there, and each record that was read is whole.

    ACTSTATS_STRESS=60 makes it a minute."""
    learn = learner(tmp_path, cbs := [ActStats(capacity=4, phase='both'), GradStats(capacity=6),
                                      WeightStats(capacity=4), DeadUnits(window=2, capacity=3)])
    act, grad, weight, units = cbs
    learn.fit(1, 1e-3)
    stop, wrong, reads = threading.Event(), [], 0
    sizes = [p.numel() for p in learn.model.parameters()]  # a reader leaves parameters alone: torch locks them
    def whole():
        rec, per = act.record, BATCH*np.array([8, 8, 3])
        assert (rec.count == rec.columns['steps'][:, None]*per).all()
        assert (rec.hist.sum(-1) + rec.underflow + rec.overflow == rec.count).all()
        rec = grad.record
        assert (rec.count == rec.columns['steps'][:, None]*per).all()
        assert all((rec.count == rec.columns['steps'][:, None]*sizes).all() for rec in weight.records[:1])
        rec = units.record
        assert (rec.count == rec.columns['steps'][:, None]*BATCH).all()
        repr(act), act.accumulator.nbytes
    def read():
        nonlocal reads
        while not stop.is_set():
            try: whole()
            except BaseException as e: return wrong.append(e)
            reads += 1
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    end, epochs = time.time() + float(os.environ.get('ACTSTATS_STRESS', 3)), 1
    while time.time() < end and not wrong:
        learn.fit(1, 1e-3)
        epochs += 1
    stop.set()
    thread.join()
    assert not wrong, wrong
    whole()
    assert reads > 10 and epochs > 5
    steps = epochs*TRAIN
    assert act.record.train.count.sum() == steps*BATCH*19 and act.record.valid.count.sum() == epochs*VALID*BATCH*19
    assert grad.record.count.sum() == steps*BATCH*19
    assert (units.record.count.sum(0) == steps*BATCH).all()
    record_row('training', 'records read in another thread', 'yes, no value lost', '-', '-')

@pytest.mark.slow
@pytest.mark.parametrize('kind', [ActStats, DeadUnits])
def test_ctrl_c_leaves_no_lock_held(kind, tmp_path):
    "Interrupts at any time of a fit, then a read in another thread"
    learn = learner(tmp_path, cb := kind())
    learn.fit(1, 1e-3)
    def interrupt(*args): raise KeyboardInterrupt
    before, wait = signal.signal(signal.SIGALRM, interrupt), np.random.default_rng(0)
    try:
        for _ in range(15):
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, wait.uniform(1e-3, 1e-2))
                learn.fit(20, 1e-3)
            with concurrent.futures.ThreadPoolExecutor() as other:
                assert other.submit(lambda: len(cb.record)).result(20) >= 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

# arguments

WRONG = {
    ActStats: dict(layers=[], bins=[0, -1, 2.5, '80', True, 2**20 + 1, 2**60, None],
                   range=[(3, -3), (0, float('nan')), 5, ('a', 1), (1,), None], eps=[-1, 'x', float('nan'), True],
                   every=[0, 2.5, '1', True, None], capacity=[1, 2.5, 'x', True], when_full=['drop', 3, None, []],
                   phase=['test', 3, None, []], pick=['x', 3], calls=[0, 1.5, 'x', True], kernel=['fpga', 3, None, []],
                   ranks=['all', 3, None, []], run=['x', 3, None], resume=[3, ''], name=[3, '', 'a b']),
    WeightStats: dict(layers=[], bins=[0, 2.5, 2**20 + 1], range=[(3, -3), 5], eps=['x'], every=[0, '1'],
                      capacity=[1, 'x'], when_full=['drop'], kernel=['fpga', []], resume=[3],
                      name=[3, '']),
    DeadUnits: dict(layers=[], window=[0, 'fit', 2.5, None, [], True], kind=['gelu', 3, []],
                    channel_dim=[1.5, 'x', True], every=[0, 'x'], capacity=[1, 'x'], pick=['x'],
                    ranks=['all', []], name=[3, '']),
    ActSample: dict(layers=[], n=[0, 1.5, 'x', True, None], pool=['sum', 3, []], every_epoch=['x', 2, None],
                    seed=['x', 1.5, None, True], channel_dim=[1.5, 'x', True],
                    name=[3, '']),
    LiveStats: dict(path=['', 5, b'a.png'], source=[3, []], every=[-1, 'x', None, float('nan'), True],
                    budget=[0, 2, 'x', None, True], most=[0, 2.5, 'x', True],
                    notebook=['x', 3]),
    StopOnTrouble: dict(rules=['ded', 5, [5], ['dead', 'ded']], every=[-1, 'x', 2.5, None, True], thresholds=[]),
    SaveRecord: dict(fname=['', 5, None, '/', b'a'], notes=[object(), {1: 2}, {'a': (1,)}, torch.ones(2),
                                                            float('nan')], seconds=[0, -1, 'x', True]),
    TensorBoardStats: dict(log_dir=['', 5], points=[0, 2.5, 'x', None, True]),
    **{kind: dict(points=[0, 2.5, 'x', None, True]) for kind in (WandbStats, MlflowStats, TrackioStats)},
    Bins: dict(n=[0, 2.5, 2**20 + 1, 'x'], lo=[11., 'x', float('nan')], hi=[-11., 'x', float('inf')], eps=[-1, 'x'],
               per_octave=[-1, 'x', 1.5]),
}
WRONG[GradStats] = {k: v for k, v in WRONG[ActStats].items() if k not in ('phase', 'run')}

@pytest.mark.parametrize('kind,name,value', [(kind, name, value) for kind, given in WRONG.items()
                                             for name, values in given.items() for value in values],
                         ids=lambda o: getattr(o, '__name__', None) or repr(o)[:20])
def test_wrong_arguments_are_refused_when_given(kind, name, value):
    with pytest.raises((TypeError, ValueError)) as found: kind(**{name: value})
    said = str(found.value)
    others = ('bins', 'range', 'lo', 'hi', 'eps') if kind in (ActStats, GradStats, WeightStats, Bins) else ()
    named = said.startswith(tuple(f'{o}=' for o in (name, *others))) or 'bins in range' in said
    assert named or (kind is StopOnTrouble and 'there is no rule' in said), said
    assert '\n' not in said and len(said) < 400

def test_every_argument_is_tried():
    for kind, given in WRONG.items(): assert set(inspect.signature(kind).parameters) == set(given), kind

@pytest.mark.parametrize('given,error,match', [(dict(dead=5), TypeError, 'dead=5 must be a dict of thresholds'),
                                               (dict(dead=dict(actve=1)), ValueError, 'no threshold'),
                                               (dict(dead=dict(active='x')), TypeError,
                                                "dead: active='x' must be a number"),
                                               (dict(ded={}), ValueError, 'no rule')])
def test_wrong_thresholds_are_refused_when_given(given, error, match):
    with pytest.raises(error, match=match): StopOnTrouble(**given)
    with pytest.raises(ValueError, match='powers of two'): Bins.symlog(tiny='x')
    with pytest.raises(ValueError, match='powers of two'): Bins.symlog(tiny=0)
