"""`rec.run` against what a plain callback sees in the same events: every way in which a batch is changed or shared."""
import warnings

import numpy as np
import pytest
import torch
from fastai.basics import Callback, DataLoaders, Learner, MSELossFlat
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation
from helpers import CpuAmp, quiet, record_of, run_script, tiny
from torch import nn

from fastai_actstats.all import ActStats, GradStats, Record, compare
from fastai_actstats.core.ranks import merge_records
from fastai_actstats.core.run import pack


class Seen(Callback):
    "Values of each training batch in float64, as numpy arrays"
    order = 95
    def before_fit(self): self.batches, self.rates = [], []
    def after_loss(self):
        if not self.training: return
        flat = lambda x: x.detach().double().numpy().ravel().copy()
        self.batches.append(dict(loss=flat(self.learn.loss), input=flat(self.learn.xb[0]), output=flat(self.learn.pred),
                                 target=flat(self.learn.yb[0])))
    def after_step(self): self.rates.append([h['lr'] for h in self.opt.hypers])

def is_what_was_seen(run, steps):
    "`steps`: the batches of each step"
    assert len(run) == len(steps)
    for name in ('loss', 'input', 'output', 'target'):
        one = run[name]
        for t, batches in enumerate(steps):
            x = np.concatenate([b[name] for b in batches])
            assert one.count[t, 0] == x.size and one.nonfinite[t, 0] == 0
            got = [one.mean[t, 0], one.min[t, 0], one.max[t, 0]]
            np.testing.assert_allclose(got, [x.mean(), x.min(), x.max()], rtol=1e-5, atol=1e-6)
            if x.size > 1: np.testing.assert_allclose(one.std[t, 0], x.std(ddof=1), rtol=1e-4)
            assert one.hist[t, 0].sum() == ((x >= -10) & (x <= 10)).sum()

def test_is_what_the_batch_was(learner, settings):
    seen = Seen()
    learn = learner([ActStats(), seen])
    learn.fit_one_cycle(1, settings.lr)
    rec = learn.act_stats.record
    assert rec.run.layers == ['loss', 'lr', 'input', 'output', 'target'] and (rec.run.columns == rec.columns).all()
    is_what_was_seen(rec.run, [[b] for b in seen.batches])
    np.testing.assert_allclose(rec.run['lr'].mean[:, 0], [r[0] for r in seen.rates], rtol=1e-6)
    assert rec.run.what == 'run' and rec.run.info['input']['shape'] == (64, 1, 28, 28)
    assert not any('loss' in n for n in rec.layers + list(rec.info)) and '9 layers' in repr(learn.act_stats)

def test_mixup_and_learning_rates_of_groups(learner, settings, few):
    def split(m): return [list(m[:1].parameters()), list(m[1:3].parameters()), list(m[3:].parameters())]
    seen = Seen()
    learn = learner([ActStats(), MixUp(), seen], splitter=split)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*shadowing.*')
        learn.fit(1, 1e-3)
        learn.fit_one_cycle(1, slice(1e-4, 1e-2))
    rec = learn.act_stats.record
    groups = ['lr.0', 'lr.1', 'lr.2']
    assert rec.run.layers[1:4] == groups
    np.testing.assert_allclose(rec.fit(1).run[groups].mean, seen.rates, rtol=1e-6)
    is_what_was_seen(rec.fit(1).run, [[b] for b in seen.batches])
    raw = {float(x.mean()) for x, _ in few.train}
    mixed = rec.fit(1).run['input'].std[:, 0]
    assert mixed.max() < 1 and len(raw) == 14  # two digits on each other are fainter than one
    assert np.ptp(rec.fit(0).run[groups].mean) == 0

def test_equal_learning_rates_of_groups_are_one(learner):
    def split(m): return [list(m[:2].parameters()), list(m[2:].parameters())]
    learn = learner([ActStats()], splitter=split)
    learn.fit(1, 1e-3)
    assert learn.act_stats.record.run.layers == ['loss', 'lr', 'input', 'output', 'target']

def test_micro_batches_are_one_step_and_their_loss_is_the_mean(learner, settings, record_row):
    seen = Seen()
    learn = learner([ActStats(), GradientAccumulation(3*64), seen])
    learn.fit(1, settings.lr)
    rec = learn.act_stats.record
    is_what_was_seen(rec.run, [seen.batches[i:i + 3] for i in range(0, 14, 3)])
    losses = [b['loss'][0] for b in seen.batches]
    np.testing.assert_allclose(rec.run['loss'].mean[0, 0], np.mean(losses[:3]), rtol=1e-6)
    assert rec.run['lr'].count[:, 0].tolist() == [3, 3, 3, 3, 2] and np.allclose(rec.run['lr'].mean, settings.lr)
    record_row('training', 'rec.run with gradient accumulation: the mean of the micro-batches', 'yes', 'yes', 'yes')

def test_the_loss_is_not_scaled_by_mixed_precision(learner, settings, record_row):
    seen = Seen()
    learn = learner([ActStats(), CpuAmp(2.**10, enabled=True), seen])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.fit(1, settings.lr)
    run = learn.act_stats.record.run
    is_what_was_seen(run, [[b] for b in seen.batches])
    assert np.nanmax(run['loss'].mean) < 10
    record_row('training', 'rec.run under autocast, loss scaled', 'yes', 'yes', 'yes')

def test_training_is_the_same_to_the_last_bit_with_and_without(learner, settings, record_row):
    results = {}
    for run in (False, True):
        learn = learner([ActStats(run=run, phase='both')], metrics=None)
        learn.fit_one_cycle(2, settings.lr)
        results[run] = [*learn.recorder.losses, *learn.model.parameters(), torch.get_rng_state()]
        assert (learn.act_stats.record.run is None) is not run
    assert all(torch.equal(a, b) for a, b in zip(*results.values()))
    record_row('training', 'rec.run, beside a record without it', 'yes', 'yes', 'yes')

def test_validation_has_no_learning_rate_and_its_own_loss(learner):
    learn = learner([ActStats(phase='both')], metrics=None)
    learn.fit(1, 1e-3)
    run = learn.act_stats.record.run
    assert np.isnan(run.valid['lr'].mean).all() and np.isfinite(run.valid['loss'].mean).all()
    weights = run.valid['target'].count[:, 0]
    np.testing.assert_allclose(np.average(run.valid['loss'].mean[:, 0], weights=weights), learn.recorder.values[-1][1],
                               rtol=1e-5)

class Pair(nn.Module):
    "Token ids and numbers in a dict"
    def __init__(self):
        super().__init__()
        self.words, self.last = nn.Embedding(50, 4), nn.Linear(6, 1)
    def forward(self, ids, more): return self.last(torch.cat([self.words(ids).mean(1), more['x']], 1))

class Pairs(list):
    n_inp = 2  # of three

def pairs(n=24):
    torch.manual_seed(0)
    return Pairs((torch.randint(0, 50, (3,)), dict(name='a', x=torch.randn(2)), torch.randn(1)) for _ in range(n))

def test_several_inputs_whole_numbers_and_dicts():
    items = pairs()
    dls = DataLoaders.from_dsets(items, items, bs=8, shuffle=False, num_workers=0, device=torch.device('cpu'))
    learn = quiet(Learner(dls, Pair(), loss_func=MSELossFlat(), cbs=ActStats(['last'])))
    learn.fit(1, 1e-3)
    run = learn.act_stats.record.run
    assert run.layers == ['loss', 'lr', 'input', 'input.1', 'output', 'target']
    ids, x = torch.stack([i[0] for i in items]).double(), torch.stack([i[1]['x'] for i in items]).double()
    order = run.merged()
    assert order['input'].count.item() == ids.numel() and order['input'].max.item() == ids.max().item()
    np.testing.assert_allclose(order['input'].mean.item(), ids.mean(), rtol=1e-6)
    np.testing.assert_allclose(order['input.1'].mean.item(), x.mean(), rtol=1e-4)

def test_what_goes_wrong_is_said_once_and_training_goes_on(tmp_path, monkeypatch):
    learn = tiny(tmp_path, ActStats())
    tap = learn.act_stats.run_tap
    real = tap.row
    def row(name):
        if name == '.input': raise RuntimeError('no such row')
        return real(name)
    monkeypatch.setattr(tap, 'row', row)
    with pytest.warns(UserWarning, match="'input' of the run is left out of the record: no such row") as said:
        learn.fit(2, 1e-3)
    rec = learn.act_stats.record
    assert len(said) == 1 and len(rec) == 8 and rec.run.layers == ['loss', 'lr', 'output', 'target']
    assert (rec.run.count > 0).all() and not rec.report().blind

def test_a_layer_may_be_called_as_the_runs_are(tmp_path):
    learn = tiny(tmp_path, ActStats())
    learn.model = nn.Sequential()
    learn.model.add_module('loss', nn.Linear(4, 1))
    learn.model.add_module('lr', nn.Identity())
    learn.fit(1, 1e-3)
    rec = learn.act_stats.record
    assert rec.layers == ['loss'] and rec.run['loss'].count.sum() == 4 and rec['loss'].count.sum() == 32

def test_every_and_a_full_ring(learner, settings):
    seen = Seen()
    learn = learner([ActStats(every=2, capacity=4), seen])
    learn.fit(1, settings.lr)
    rec = learn.act_stats.record
    is_what_was_seen(rec.run, [seen.batches[0:4:2], seen.batches[4:8:2], seen.batches[8:12:2], seen.batches[12:14:2]])

# a record of it

@pytest.fixture(scope='module')
def trained(few, settings):
    from helpers import seeded
    learn = seeded(few, settings, [ActStats(phase='both')])
    learn.fit(2, settings.lr)
    learn.fit(1, settings.lr)
    return learn.act_stats.record

def test_it_goes_with_its_record(trained, tmp_path):
    for part in (trained.epoch(1), trained.fit(-1), trained.between(3, 9), trained.train, trained.valid,
                 trained.merged(4), trained['0.0'], trained[0:2], trained.part([1, 2]), trained.replace(notes=5)):
        assert np.array_equal(part.run.columns, part.columns) and part.run.layers == trained.run.layers
    late = trained.columns.copy()
    late['first'] += 1000
    late['last'] += 1000
    assert np.array_equal(trained.replace(columns=late).run.columns, late)
    few = trained.merged(4)
    x = np.arange(0, len(trained), -(-len(trained)//4))
    np.testing.assert_allclose(few.run['loss'].mean[0, 0], trained.run['loss'].mean[:x[1], 0].mean(), rtol=1e-9)
    assert few.run['lr'].count.sum() == trained.run['lr'].count.sum()
    with pytest.raises(ValueError, match='over other columns'): trained.replace(run=trained.run.part(slice(3)))
    trained.save(tmp_path/'run.npz')
    again = Record.load(tmp_path/'run.npz')
    assert again == trained and again.run == trained.run and again.run is not trained.run
    assert again != trained.replace(run=None)
    alone = trained.run
    alone.save(tmp_path/'alone.npz')
    assert Record.load(tmp_path/'alone.npz') == alone

def test_records_before_it_have_none(tmp_path):
    rec = record_of([[torch.randn(9)]])
    rec.save(tmp_path/'a.npz')
    assert rec.run is None and Record.load(tmp_path/'a.npz').run is None and pack(rec) is rec

def test_others_have_none(learner):
    learn = learner([GradStats()])
    learn.fit(1, 1e-3)
    assert learn.grad_stats.record.run is None

def test_tables_and_comparisons_take_it(trained):
    df = trained.run.to_df()
    assert set(df.layer) == {'loss', 'lr', 'input', 'output', 'target'} and len(df) == 5*len(trained)
    both = compare(a=trained.train.run, b=trained.train.run)
    assert len(both.table()) and trained.run['loss'].heatmap('mean') is not None

def test_ranks_merge_it(few, settings):
    from helpers import seeded
    records = {}
    for rank in (0, 1):
        learn = seeded(few, settings, [ActStats()])
        learn.fit(1, settings.lr*(1 + rank))
        records[rank] = learn.act_stats.record
    both = merge_records(records)
    assert both.ranks == (0, 1) and both.run.layers == records[0].run.layers and '.loss' not in both.info
    np.testing.assert_allclose(both.run['loss'].mean,
                               (records[0].run['loss'].mean + records[1].run['loss'].mean)/2, rtol=1e-12)
    assert (both.run['input'].count == 2*records[0].run['input'].count).all()
    assert (both.run.columns == both.columns).all()

COMPILED = """
import torch._dynamo
def trained(cbs):
    torch._dynamo.reset()
    set_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(64, 4), torch.randn(64, 1))
    dls = DataLoaders.from_dsets(data, data, bs=8, num_workers=0, device=torch.device('cpu'))
    set_seed(2)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    learn = quiet(Learner(dls, torch.compile(model, backend='aot_eager'), loss_func=MSELossFlat(), cbs=cbs))
    learn.fit(2, 1e-2)
    return learn
trace = LossTrace()
alone, learn = trained([]), trained([ActStats(), trace])
assert same([*alone.model.parameters()], [*learn.model.parameters()])
rec = learn.act_stats.record
assert len(rec) == 16 and (rec.run.count > 0).all() and (rec.count > 0).all()
seen = [float(l) for l in trace.seen]
seen = seen[:8] + seen[16:24]  # the others are of validation
np.testing.assert_allclose(rec.run['loss'].mean[:, 0], seen, rtol=1e-6)
"""

@pytest.mark.slow
def test_of_a_compiled_model(record_row):
    done = run_script(COMPILED)
    assert not done.returncode, done.stderr[-3000:]
    record_row('training', 'rec.run of a compiled model', 'yes', 'yes', 'yes')

def test_loss_of_sums_and_regularisers_is_what_fastai_calls_loss(learner, settings):
    "What other callbacks do to `loss_grad` alone is not in it"
    class Heavier(Callback):
        def after_loss(self):
            if self.training: self.learn.loss_grad = self.learn.loss_grad*3
    seen = Seen()
    learn = learner([ActStats(), Heavier(), seen])
    learn.fit(1, 1e-3)
    is_what_was_seen(learn.act_stats.record.run, [[b] for b in seen.batches])
