"""Rules see what they should in records made by hand and in real trainings, and nothing where nothing is wrong."""
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import ROOT, findings, hooks_on, record_of
from torch import nn

from fastai_actstats.all import (
    ActStats,
    DeadUnits,
    Finding,
    GradStats,
    Report,
    StopOnTrouble,
    WeightStats,
    diagnose,
    rule,
    thresholds,
)
from fastai_actstats.analysis.report import examine
from fastai_actstats.analysis.rules import RULES, collapses, onset, share_above_zero, slope
from fastai_actstats.core.layers import follows
from fastai_actstats.kernels.bins import Bins

sys.path.insert(0, str(ROOT/'bench'))
import faults  # noqa: E402, the trainings that `bench/faults.py` judges

FINDINGS = {'dead', 'saturated', 'vanishing', 'exploding', 'nonfinite', 'bumpy', 'bad-init', 'update-size', 'frozen',
            'never-ran', 'out-of-range'}

@pytest.fixture
def x(): return torch.randn(4000, generator=torch.Generator().manual_seed(0))

# what rules measure

@pytest.mark.parametrize('squash', [torch.tanh, torch.sigmoid])
@pytest.mark.parametrize('scale', [.5, 2., 6.])
def test_slope_is_that_of_the_values(x, squash, scale):
    z = (scale*x).double().requires_grad_()
    squash(z).sum().backward()
    exact = z.grad.mean().item()/(1 if squash is torch.tanh else .25)
    name = squash.__name__.capitalize()
    before, itself = record_of([[scale*x]], type='Linear', then=name), record_of([[squash(scale*x)]], type=name)
    assert slope(before, 0)[0] == pytest.approx(exact, abs=.02)
    assert slope(itself, 0)[0] == pytest.approx(exact, abs=1e-3)

def test_share_above_zero_is_exact(x):
    # the edge at 0 belongs to the bin above
    assert share_above_zero(record_of([[x - 1]]))[0, 0] == ((x - 1) >= 0).double().mean()

def test_collapses_counts_falls_from_the_last_peak():
    assert collapses(np.array([1, 2, 4, 1.9, 1.5, 1.4, 2.9, 3., 1.4, np.nan, 1.3]), 2.).tolist() == [3, 8]
    assert collapses(np.linspace(1, 9, 20), 2.).tolist() == []

def test_onset_wants_it_to_last(x):
    rec = record_of([[x]]*12)
    bad = np.zeros(12, bool)
    bad[[1, 5, 6, 7]] = True
    assert onset(rec, bad, 2) == (5, ', until step 7') and onset(rec, bad, 4) is None
    bad[8:] = True
    assert onset(rec, bad, 2) == (5, '')
    assert onset(rec.merged(6), bad[::2], 4) == (6, '')  # two steps a column: two columns are four steps

def test_follows_reads_sequentials():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), nn.Dropout(), nn.ReLU(), nn.Flatten(),
                          nn.ModuleDict({'a': nn.Linear(2, 2)}))
    assert follows(model) == {'0.0': 'BatchNorm2d', '0.1': 'ReLU', '2': 'Flatten', '3': 'ModuleDict'}

# rules on records made by hand; ten steps of calm first

@pytest.mark.parametrize('finding, what, known, before, after, layer', [
    ('dead', 'activations', dict(type='Conv2d', then='ReLU'), (0., 1.), (-9., 1.), 'l0'),
    # nothing known of what follows; the last layer is not judged
    ('dead', 'activations', dict(type='Custom'), (0., 1.), (-9., 1.), 'l0'),
    ('saturated', 'activations', dict(type='Linear', then='Tanh'), (0., 1.), (0., 7.), 'l0'),
    ('exploding', 'activations', dict(type='Linear'), (0., 1.), (0., 1e4), 'l0'),
    ('out-of-range', 'activations', dict(type='Linear'), (0., 1.), (0., 20.), 'l0')])
def test_a_change_is_seen_at_its_step(x, finding, what, known, before, after, layer):
    steps = [[m + s*x]*2 for m, s in [before]*10 + [after]*15]
    rec = record_of(steps, what, **known)
    assert (layer, finding, 10) in findings(rec.report())
    assert finding not in {f.finding for f in record_of(steps[:10], what, **known).report()}

def test_small_is_not_dead(x):
    assert findings(record_of([[x.relu()*1e-3]*2]*20, type='ReLU').report('dead')) == []
    sparse = torch.where(torch.arange(4000) < 20, 3., 0.)
    assert findings(record_of([[sparse]*2]*20, type='ReLU').report('dead')) == [('l0', 'dead', 0), ('l1', 'dead', 0)]

def test_leaky_does_not_die(x): assert not record_of([[x - 9]*2]*20, type='Conv2d', then='LeakyReLU').report('dead')

def test_nan_is_found_where_it_arose_and_hides_what_follows(x):
    bad = x.clone()
    bad[3] = torch.nan
    rec = record_of([[x, x, x]]*12 + [[x, bad, bad]] + [[x, bad*torch.nan, bad]]*20, type='Conv2d', then='ReLU')
    found = rec.report()
    assert findings(found) == [('l1', 'nonfinite', 12)] and '1 of 4000' in found.df.evidence[0]

def test_order_of_running_counts_not_that_of_names(x):
    bad = x*torch.nan
    rec = record_of([[bad, bad]])
    rec.info['l0']['order'], rec.info['l1']['order'] = 2, 1
    assert findings(rec.report()) == [('l1', 'nonfinite', 0)]

def test_a_loss_scaler_may_look_for_its_scale(x):
    steps = [[x*torch.inf]*2]*8 + [[x]*2]*30
    assert not record_of(steps, 'gradients').report('nonfinite')
    assert record_of(steps, 'gradients').report('nonfinite', nonfinite=dict(skipped=4))

@pytest.mark.parametrize('factor, name', [(.05, 'vanishing'), (12., 'exploding')])
def test_gradients_along_depth(x, factor, name):
    def rec(f): return record_of([[1e-3*f**(4 - i)*x for i in range(5)]]*25, 'gradients', Bins.symlog())
    found = rec(factor).report()
    assert findings(found) == [('l0', name, 0)] and not rec(1.).report()

def test_initial_variance(x):
    def rec(*stds): return record_of([[s*x for s in stds]]*12, type='Conv2d')
    assert findings(rec(1, 5, 40).report('bad_init')) == [('l2', 'bad-init', 0)]
    assert findings(rec(1, .1, .0005).report('bad-init')) == [('l2', 'bad-init', 0)]
    assert findings(rec(12, 6, 1).report('bad_init')) == [('l0', 'bad-init', 0)]
    assert not rec(1, .5, .1).report('bad_init')

def test_bumps(x):
    wave = [1, 2, 4, 1, 3, 6, 2, 5, 1, 4, 1.5, 1]
    assert findings(record_of([[s*x, x] for s in wave]).report('bumpy')) == [('l0', 'bumpy', 3)]
    assert not record_of([[s*x, x] for s in wave]).report('bumpy', bumpy=dict(times=5))
    assert not record_of([[s*x] for s in sorted(wave)]).report('bumpy')

def test_update_sizes(x):
    def found(size):
        weights, updates = (record_of([[x*s]*2]*25, what, Bins.symlog(), shape=(10, 10))
                            for what, s in (('weights', .1), ('updates', .1*size)))
        return findings(examine([weights, updates], 'update_size'))
    assert found(1e-3) == [] and found(1.) == found(1e-6) == [('l0', 'update-size', 0)]

# the report

def test_report_is_a_table_and_says_when_it_is_empty(x):
    calm = record_of([[x]*2]*20, type='Conv2d', then='ReLU')
    none, some = calm.report(), record_of([[x - 9]*2]*20, type='Conv2d', then='ReLU').report()
    assert list(none.df) == list(some.df) == ['layer', 'finding', 'since', 'evidence', 'remedy', 'severity']
    assert len(none) == 0 and set(some.df.severity) == {'alarm'}
    assert not none
    assert isinstance(some.df, pd.DataFrame) and some.df.since.dtype == 'int64' and set(some.df.finding) <= FINDINGS
    assert 'Nothing found' in repr(none) and 'activations of 2 layers over 20 steps' in repr(none)
    assert 'Nothing found' in none._repr_html_()
    assert all(text in repr(some) for text in ('l0', 'dead', 'since step 0', 'try: '))
    assert '<table' in some._repr_html_()
    assert 'Nothing is recorded' in repr(calm.part([]).report())

def test_html_is_escaped(): assert '<b>x' not in Report([Finding('<b>x', 'dead', 0, '<i>', '&')])._repr_html_()

def test_thresholds_have_a_meaning_and_can_be_set(x):
    table = thresholds()
    assert (table.meaning.str.len() > 5).all() and set(table.rule) <= set(RULES)
    rec = record_of([[x]*2]*20, type='Conv2d', then='ReLU')
    assert not rec.report(dead=dict(active=.4)) and rec.report(dead=dict(active=.6))
    with pytest.raises(ValueError, match="no threshold 'actve': active, steps"): rec.report(dead=dict(actve=.6))
    with pytest.raises(ValueError, match="no rule 'ded': nonfinite, dead"): rec.report('ded')

def test_a_users_rule_is_part_of_every_report(x):
    @rule('activations')
    def high_mean(rec, most=1.):
        for i, layer in enumerate(rec.layers):
            if rec.mean[-1, i] > most: yield Finding(layer, 'high-mean', 0, f'{rec.mean[-1, i]:.1f}', 'a norm layer')
    try:
        rec = record_of([[x + 2, x]]*3)
        assert findings(rec.report()) == [('l0', 'high-mean', 0)] and not rec.report(high_mean=dict(most=3.))
        assert 'high_mean' in set(thresholds().rule)
    finally: del RULES['high_mean']
    with pytest.raises(TypeError, match='name the kinds of records'): rule(lambda rec: [])

# real trainings

def test_diagnose_wants_something_recorded(learner):
    with pytest.raises(ValueError, match='cbs=ActStats'): diagnose(learner())
    assert 'Nothing is recorded' in repr(diagnose(learner(ActStats())))

@pytest.mark.slow
@pytest.mark.parametrize('name', ['bias_kills_relu', 'nan_in_one_batch', 'deep_sigmoid', 'deep_tanh_saturated',
                                  'init_far_too_large', 'init_far_too_small', 'inputs_not_normalised', 'frozen_layer',
                                  'layer_skipped', 'no_warmup_plain', 'lr_far_too_low', 'gelu', 'relu_mlp', 'tanh_mlp',
                                  'groupnorm', 'plain_sgd', 'transformer'])
def test_faults_are_named_and_healthy_runs_are_not(name):
    learn = faults.train(name, 21, epochs=1, watch=lambda units: [ActStats(), GradStats(), WeightStats(every=5)])
    found = diagnose(learn)
    row = faults.judged(name, 21, found)
    assert row['right'], row
    assert set(found.df.finding) <= FINDINGS and not hooks_on(learn.model)

def test_stop_on_trouble_ends_the_fit_and_keeps_everything(learner, settings):
    learn = learner([ActStats(), StopOnTrouble(every=4), faults.SpoiltBatch(9)])
    with pytest.warns(UserWarning, match="ended after 12 steps: nonfinite in layer '0.0' since step 9"):
        learn.fit(3, 1e-3)
    assert len(learn.act_stats.record) == 12 and findings(learn.stop_on_trouble.reason)[0] == ('0.0', 'nonfinite', 9)
    assert len(learn.recorder.losses) == 12 and not hooks_on(learn.model)

def test_stop_on_trouble_leaves_healthy_fits_alone(learner):
    learn = learner([ActStats(), GradStats(), WeightStats(), StopOnTrouble(None, every=5)])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.fit(2, 1e-3)
        learn.validate()
    assert learn.stop_on_trouble.reason is None and len(learn.act_stats.record) == 2*len(learn.dls.train)

def test_a_rule_that_fails_does_not_end_the_fit(learner):
    @rule('activations')
    def broken(rec): raise KeyError('oops')
    try:
        learn = learner([ActStats(), StopOnTrouble(None, every=5)])
        with pytest.warns(UserWarning, match='looks no more: .oops'): learn.fit(1, 1e-3)
    finally: del RULES['broken']
    assert len(learn.act_stats.record) == len(learn.dls.train)
    with pytest.raises(ValueError, match='cbs=ActStats'): learner(StopOnTrouble()).fit(1)

def test_stop_on_trouble_reads_rarely(learner, monkeypatch):
    learn = learner([ActStats(), StopOnTrouble(every=5)])
    reads, recorder = [], type(learn.act_stats.accumulator)
    monkeypatch.setattr(recorder, '_read', lambda self, read=recorder._read: reads.append(self.step) or read(self))
    learn.fit(1, 1e-3)
    assert reads == [5, 10, 14]

def test_units_that_die_are_a_finding(learner):
    from fastai_actstats.demo import reference_cnn
    model = reference_cnn(False)
    nn.init.constant_(model[1][0].bias[:12], -50.)  # 12 of 16 channels
    learn = learner(DeadUnits(), model=model)
    learn.fit(1, 1e-3)
    found = diagnose(learn)
    assert ('1.1', 'dead', 0) in findings(found) and '12 of 16 units' in found.df.evidence[0]
