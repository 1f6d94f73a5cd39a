"""What `explain` says of records that are made by hand, event by event, and of a few real runs."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from fastai.basics import Callback
from helpers import ROOT, record_of, tiny

from fastai_actstats.all import ActStats, Bins, Explanation, GradStats, WeightStats
from fastai_actstats.analysis.changes import bends, jumps
from fastai_actstats.core.run import unpack

NAMES = ['a', 'b', 'c']  # in the order in which they run, which is not that of their names below

def made(change=lambda t, at: None, steps=120, run=True, seed=0, start=lambda t: 1.):
    "Three layers of noise with a run beside them; `change` is told of each step and may change what is in it"
    gen, rows = torch.Generator().manual_seed(seed), []
    def noise(n): return torch.randn(n, generator=gen)
    for t in range(steps):
        wavers = {n: 1 + .03*noise(1).item() for n in NAMES}
        at = dict(a=noise(300)*wavers['a'], b=noise(300)*wavers['b']*2, c=noise(300)*wavers['c']*3, input=noise(500),
                  loss=torch.tensor(1. + .1*noise(1).item()),
                  lr=torch.tensor(start(t)*1e-3), target=noise(20), output=noise(20))
        change(t, at)
        rows.append(at)
    of_run = ['loss', 'lr.0', 'input', 'output', 'target'] if run else []
    values = [[*(at[n] for n in NAMES), *(at[n.removesuffix('.0')].reshape(-1) for n in of_run)] for at in rows]
    rec = record_of(values, bins=Bins())
    info = {n: dict(type='Linear', order=i) for i, n in enumerate(NAMES)}
    return unpack(rec.replace(layers=[*NAMES, *(f'.{n}' for n in of_run)], info=info))

def events(said): return [(e.kind, e.step, e.layer) for e in said]

def scale(names, by, steps):
    def change(t, at):
        if t in steps:
            for n in names: at[n] = at[n]*by
    return change

LATE = range(60, 120)

@pytest.mark.parametrize('by', [1e4, 100., 10.])
def test_the_batch(by):
    said = made(scale(['input', 'a', 'b', 'c', 'loss'], by, [60])).explain()
    assert events(said) == [('batch', 60, 'input')]
    assert 'gone in the next step' in said.df.evidence[0] and '3 of 3 layers' in said.df.evidence[0]

@pytest.mark.parametrize('by', [50., 10., 5., .1])
@pytest.mark.parametrize('layer', NAMES)
def test_one_layer(layer, by):
    behind = NAMES[NAMES.index(layer):]
    said = made(scale(behind, by, LATE)).explain()
    assert events(said) == [('layer', 60, layer)] and 'stays so' in said.df.evidence[0]

def test_one_layer_whatever_it_is_called():
    rec = made(scale(['b', 'c'], 50., LATE))
    names = ['z', 'input', 'loss']
    again = rec.replace(layers=names, info={n: rec.info[o] for n, o in zip(names, NAMES)})
    assert events(again.explain()) == [('layer', 60, 'input')]
    assert events(again[[2, 0, 1]].explain()) == [('layer', 60, 'input')]  # by the order in which they ran

@pytest.mark.parametrize('by', [100., 10., 5.])
def test_the_learning_rate(by):
    def change(t, at):
        if 60 <= t < 65: at['lr'] = at['lr']*by
        if t > 60: at['a'], at['b'], at['c'] = at['a']*3, at['b']*9, at['c']*20
    said = made(change).explain()
    assert events(said) == [('learning rate', 60, '')] and 'for 5 columns; 3 of 3' in said.df.evidence[0]

def test_schedules_are_no_event():
    steps, waves, cycles = lambda t: 10.**-(t//40), lambda t: 1 + np.sin(t/5), lambda t: 1 + (t % 30 == 0)
    for start in (lambda t: (t + 1)/120, steps, waves, cycles):
        assert not made(start=start).explain()

@pytest.mark.parametrize('names, layer, where', [(['input', 'a', 'b', 'c', 'loss'], 'input', 'forward, in input'),
                                                 (['b', 'c', 'loss'], 'b', 'forward, in b'),
                                                 (['loss'], 'loss', 'in loss')])
def test_values_that_are_no_numbers(names, layer, where):
    def change(t, at):
        if t == 60:
            for n in names: at[n] = torch.cat([at[n].reshape(-1)[1:], torch.tensor([float('nan')])])
        if t > 60:
            for n in NAMES: at[n] = at[n]*float('nan')
    said = made(change).explain()
    assert events(said)[0] == ('non-finite', 60, layer) and where in said.df.evidence[0]
    assert 'the step before the largest was' in said.df.evidence[0]

def test_values_near_the_end_of_a_number_format():
    def change(t, at):
        if t >= 60: at['b'] = at['b'].sign()*(3e4 if t == 60 else float('inf'))
    said = made(change).explain()
    assert events(said)[0] == ('layer', 60, 'b') and 'non-finite values from step 61 on' in said.df.evidence[0]
    later = made(lambda t, at: at.update(b=at['b'].sign()*(3e4 if t < 61 else float('inf')))).explain(61)
    assert events(later) == [('non-finite', 61, 'b')] and 'near the largest float16, 6.55e+04' in later.df.evidence[0]

def test_weights_that_went_bad_in_the_backward_pass():
    said = made(scale(NAMES, float('nan'), LATE)).explain()
    assert events(said) == [('non-finite', 60, 'a')] and 'backward, or in the step before' in said.df.evidence[0]
    grads = made(lambda t, at: at.update({n: at[n]*float('nan') for n in ('a', 'b')} if t >= 59 else {}), run=False)
    more = made(scale(NAMES, float('nan'), LATE)).explain(others=[grads.replace(what='gradients')])
    assert events(more) == [('non-finite', 59, 'b')] and 'backward, in the gradient at b' in more.df.evidence[0]

@pytest.mark.parametrize('rate, from_step', [(1.02, 60), (1.02, 100), (1.01, 60), (1.03, 130)])
@pytest.mark.parametrize('layer', NAMES)
def test_a_drift(layer, rate, from_step):
    def change(t, at):
        for n in NAMES[NAMES.index(layer):]: at[n] = at[n]*rate**max(0, t - from_step)
    said = made(change, steps=260).explain()
    (kind, step, led), *_ = events(said)
    assert (kind, led) == ('drift', layer) and abs(step - from_step) <= 20

def test_calm():
    for seed in range(8):
        said = made(seed=seed, steps=250).explain()
        assert not said and len(said.df) == 0 and repr(said).startswith('Nothing abrupt happened.')

def test_learning_is_no_event():
    "Fast at first, then slower and slower"
    def change(t, at):
        for i, n in enumerate(NAMES): at[n] = at[n]*(1 + 3*(i + 1)*(1 - np.exp(-t/25)))*.2
        at['loss'] = at['loss']*np.exp(-t/30) + .05
    for seed in range(4): assert not made(change, steps=250, seed=seed).explain()

def test_a_loss_that_nothing_explains():
    said = made(scale(['loss'], 50., [60])).explain()
    assert events(said) == [('unknown', 60, 'loss')] and 'does not tell' in said.df.evidence[0]

def test_at_a_step():
    rec = made(scale(['b', 'c'], 50., LATE))
    assert events(rec.explain(60)) == [('layer', 60, 'b')] and events(rec.explain(59)) and not rec.explain(30)
    assert 'Nothing abrupt happened' in repr(rec.explain(30)) and 'steps 30' in repr(rec.explain(30))
    for step in (-1, 120, 9999):
        with pytest.raises(IndexError, match=f'{step} is recorded: there is 0 to 119'): rec.explain(step)

def test_without_a_run_it_says_so():
    said = made(scale(['b', 'c'], 50., LATE), run=False).explain()
    assert events(said) == [('layer', 60, 'b')] and 'Without loss, learning rate and input' in said.headline
    assert not made(run=False).part(slice(0, 0)).explain() and not made(run=False).part(slice(0, 3)).explain()

def test_what_is_shown():
    said = made(scale(['b', 'c'], 50., LATE)).explain()
    assert isinstance(said, Explanation) and list(said.df) == ['kind', 'step', 'layer', 'evidence']
    assert said.moved.what.tolist()[:2] == ['b, std', 'c, std'] and said.moved.step.tolist()[:2] == [60, 60]
    text = repr(said)
    assert text.startswith('Step 60: the layer b alone.') and 'b, std' in text and '<b>Step 60' in said._repr_html_()
    fig = said.plot()
    assert len(fig.axes) == 3 and fig.axes[0].texts[0].get_text() == 'layer b'

def test_other_callbacks_are_asked(tmp_path):
    learn = tiny(tmp_path, ActStats(), WeightStats(), GradStats())
    def jump(self):
        if self.training and self.learn.train_iter == 60:
            with torch.no_grad(): self.model[2].weight.mul_(50)
    learn.add_cb(type('Jump', (Callback,), dict(before_batch=jump))())
    learn.fit(30, 1e-4)
    said = learn.act_stats.explain()
    (kind, step, layer), = events(said)  # a batch has 8 values there
    assert (kind, layer) == ('layer', '2') and 60 <= step <= 62 and '2.weight std' in said.df.evidence[0]
    assert events(learn.act_stats.record.explain()) == events(said)

def test_jumps_are_held_against_what_is_usual():
    rng = np.random.RandomState(0)
    x = rng.randn(200, 1)*.1
    assert not jumps(x, .2).abrupt.any()
    x[100] += 3
    x[150] += 3
    assert np.flatnonzero(jumps(x, .2).abrupt[:, 0]).tolist() == [100, 150]  # one does not hide the next
    assert np.isnan(jumps(np.full((50, 1), np.nan), .2).size).all()

def test_bends_where_the_line_does():
    t, rng = np.arange(240), np.random.RandomState(0)
    x = np.stack([np.minimum(t, 30)*.05 + rate*np.maximum(0, t - 90) for rate in (.01, -.01, 0.)], 1)
    found = bends(x + rng.randn(240, 3)*.02)
    assert abs(found[0].at - 90) < 9 and abs(found[1].at - 90) < 9 and abs(found[2].grown) < .1
    np.testing.assert_allclose([found[0].rate, found[1].rate], [.01, -.01], rtol=.1)

@pytest.mark.slow
def test_real_runs():
    "One seed of one network of bench/explain.py"
    code = """
import sys
sys.path.insert(0, 'bench')
import explain as bench
import torch
torch.set_num_threads(1)
results = list(bench.run([2], ['CNN'], '', None))
wrong = [(r['event'], r['step'], r['layer'], r['found']) for r in results if not r['right']]
assert len(wrong) <= 1, wrong
"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
