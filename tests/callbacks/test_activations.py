"""ActStats on the reference run: against fastai's own callback, and invisible to training."""
import gc

import numpy as np
import pytest
import torch
from fastai.basics import set_seed
from fastai.callback.hook import ActivationStats
from helpers import Integers, Keep, LossTrace, hooks_on
from torch import nn

from fastai_actstats.all import ActStats, GradStats, WeightStats
from fastai_actstats.demo import reference_cnn


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:You are shadowing an attribute .modules.')  # fastai's callback does
@pytest.mark.parametrize('kernel', ['eager', 'cpu'])
def test_equals_fastais_activation_stats_on_every_batch(learner, dls, settings, kernel):
    ours, theirs = ActStats(bins=40, range=(0, 10), kernel=kernel), ActivationStats(with_hist=True)
    learn = learner([ours, theirs], dls=dls)
    learn.fit_one_cycle(2, settings.lr)
    rec, stats = ours.record, theirs.stats
    assert len(rec) == len(stats) == 2*len(dls.train)
    assert rec.layers == ['0.0', '0.1', '1.0', '1.1', '2.0', '2.1', '3.0', '3.1', '4.0']
    for i in range(len(rec.layers)):
        mean, std, near_zero = (np.array(list(stats.itemgot(i).itemgot(k))) for k in ('mean', 'std', 'near_zero'))
        np.testing.assert_allclose(rec.std[:, i], std, rtol=1e-5)
        np.testing.assert_allclose(rec.mean[:, i], mean, rtol=1e-5, atol=1e-6*std.max())
        hist = torch.stack(tuple(stats.itemgot(i).itemgot('hist'))).long().numpy()
        differ = np.abs(hist - rec.hist[:, i]).sum(-1)
        assert ((differ <= 2e-4*rec.count[:, i]).all()
                and differ.mean() < 1e-4*rec.count[0, i]), "more than values on an edge"
    assert torch.equal(ours.hist(3), torch.from_numpy(rec.hist[:, 3].T).float().log1p())
    assert [list(s) for s in ours.layer_stats('1.1')] == [getattr(rec, n)[:, 3].tolist()
                                                          for n in ('mean', 'std', 'near_zero')]

def test_equals_numpy_on_kept_activations(learner, settings):
    keep = Keep(['1.0', '3.2'])
    ours = ActStats(['1.0', nn.ReLU])
    learner([ours, keep]).fit(1, settings.lr)
    rec = ours.record[['1.0', '3.2']]
    for i, name in enumerate(keep.wanted):
        x = torch.stack(keep.outputs(name)).flatten(1).double().numpy()
        np.testing.assert_allclose(rec.mean[:, i], x.mean(1), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(rec.std[:, i], x.std(1, ddof=1), rtol=1e-6)
        assert (rec.min[:, i] == x.min(1)).all() and (rec.max[:, i] == x.max(1)).all()
        np.testing.assert_allclose(rec.near_zero[:, i], (np.abs(x) <= np.float32(.05)).mean(1), rtol=1e-12)
        moved = np.abs(rec.hist[:, i] - np.stack([np.histogram(r, rec.edges)[0] for r in x])).sum()
        assert moved <= 1e-5*x.size, "more than values within float32 rounding of an edge"

def trained(learner, cbs, settings):
    losses = LossTrace()
    learn = learner([*cbs, losses])
    set_seed(settings.seed)
    learn.fit_one_cycle(2, settings.lr)
    return torch.stack(losses.seen), learn.model.state_dict(), torch.get_rng_state(), np.random.get_state()[1]

def test_training_is_bit_identical(learner, settings):
    plain, watched = trained(learner, [], settings), trained(learner, [ActStats(phase='both')], settings)
    assert torch.equal(plain[0], watched[0]) and torch.equal(plain[2], watched[2]) and (plain[3] == watched[3]).all()
    assert all(torch.equal(a, b) for a, b in zip(plain[1].values(), watched[1].values()))

def test_counts_add_up_and_nothing_is_left(learner, settings):
    learn = learner(ActStats(range=(-1, 1), phase='both'))
    before = hooks_on(learn.model)
    learn.fit(2, settings.lr)
    rec = learn.act_stats.record
    assert (rec.hist.sum(-1) + rec.underflow + rec.overflow + rec.nonfinite == rec.count).all()
    assert rec.underflow.any() and rec.overflow.any()
    assert hooks_on(learn.model) == before == [] and 'all_batches' not in vars(learn)

def test_memory_of_10_000_steps_is_that_of_1_000():
    from fastai_actstats.callbacks.hooks import Tap
    from fastai_actstats.core.accumulator import Accumulator
    from fastai_actstats.kernels.bins import Bins
    net, x = nn.Linear(4, 4), torch.randn(8, 4)
    recorder = Accumulator(Bins(), capacity=128)
    recorder.add_layers(['a'], torch.device('cpu'))
    tap, size = Tap(recorder, 'a'), {}
    for step in range(10_000):
        recorder.begin_batch(True)
        tap(net, (), x)
        recorder.end_batch((0, 0))
        if step + 1 in (1_000, 10_000):
            gc.collect()
            size[step + 1] = recorder.nbytes, sum(ring.rows.untyped_storage().nbytes()
                                                  for ring in recorder.rings.values())
            tensors = [o for o in gc.get_objects() if type(o) is torch.Tensor]
            size[step + 1] += len(tensors), len(gc.get_objects())
    assert size[1_000][:3] == size[10_000][:3] and size[10_000][3] - size[1_000][3] < 100
    assert recorder.record.count.sum() == 10_000*x.numel()

def test_every_and_overwrite(learner, settings):
    learn = learner([ActStats(every=3, capacity=4, when_full='overwrite')])
    learn.fit(1, settings.lr)
    assert learn.act_stats.record.steps.tolist() == [[i, i] for i in (3, 6, 9, 12)]

def test_repr_and_reset(learner, settings):
    learn = learner(ActStats())
    assert repr(learn.act_stats) == 'ActStats (nothing recorded)'
    learn.fit(1, settings.lr)
    size = learn.act_stats.accumulator.nbytes/2**20
    assert repr(learn.act_stats) == f'ActStats (9 layers, 14 steps, {size:.1f} MiB)'
    assert '14 columns' in repr(learn.act_stats.record) and 'steps 0 to 13' in repr(learn.act_stats.record)
    assert '<table' in learn.act_stats.record._repr_html_()
    learn.act_stats.reset()
    assert len(learn.act_stats.record) == 0

@pytest.mark.parametrize('kwargs,error,match', [
    (dict(bins=0), ValueError, 'bins=0 must be at least 1'), (dict(bins=2.5), TypeError, 'bins=2.5'),
    (dict(range=(3, -3)), ValueError, r'range=\(3.0, -3.0\)'),
    (dict(range=(0, float('nan'))), ValueError, 'nan must be finite'),
    (dict(range=5), TypeError, 'range=5 must be a pair'), (dict(eps=-1), ValueError, 'eps=-1'),
    (dict(every=0), ValueError, 'every=0 must be at least 1'), (dict(capacity=1), ValueError, 'capacity=1'),
    (dict(when_full='drop'), ValueError, "when_full='drop'.*overwrite"),
    (dict(phase='test'), ValueError, "phase='test'.*valid"), (dict(pick='x'), TypeError, "pick='x'"),
    (dict(kernel='fpga'), ValueError, "kernel='fpga'.*eager")])
def test_bad_arguments_are_refused_when_given(kwargs, error, match):
    with pytest.raises(error, match=match): ActStats(**kwargs)

@pytest.mark.parametrize('layers,error,match', [
    ('conv*', ValueError, r"layers='conv\*' matches none of the 20 layers of the model: Sequential, 0, 0.0"),
    (nn.LSTM, ValueError, 'LSTM'), (3, TypeError, 'layers=3 is a int'), ([], ValueError, r'layers=\[\] matches none')])
def test_unknown_layers_are_refused_before_training(learner, settings, layers, error, match):
    learn = learner(ActStats(layers))
    weights = [p.clone() for p in learn.model.parameters()]
    with pytest.raises(error, match=match): learn.fit(1, settings.lr)
    assert all(map(torch.equal, weights, learn.model.parameters())) and not hooks_on(learn.model)
    assert 'all_batches' not in vars(learn)

@pytest.mark.parametrize('watcher', [ActStats, GradStats, WeightStats])
def test_a_kernel_of_another_device_is_refused_before_training(learner, settings, watcher, monkeypatch):
    from fastai_actstats.kernels import cuda
    monkeypatch.setattr(cuda, 'DEVICES', ('cuda',))  # without the interpreter
    other = 'cpu' if torch.cuda.is_available() else 'cuda'
    learn = learner(watcher(kernel=other))
    with pytest.raises(ValueError, match=f"kernel='{other}' does not reduce tensors on .*'eager'"):
        learn.fit(1, settings.lr)
    assert not hooks_on(learn.model) and 'all_batches' not in vars(learn)

def test_an_empty_model_is_refused(learner, settings):
    learn = learner(ActStats(), model=nn.Sequential(), opt_func=lambda *a, **k: None)
    with pytest.raises(ValueError, match='has no layers to watch'): learn('before_fit')

class Aside(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.ints = reference_cnn(), Integers()
    def forward(self, x):
        x = self.body(x)
        self.ints(x)
        return x

def test_a_layer_without_floats_is_warned_of_once_and_left_out(learner, settings):
    learn = learner(ActStats(['body.0.*', 'ints']), model=Aside())
    with pytest.warns(UserWarning, match="layer 'ints' is left out.*torch.int64") as seen: learn.fit(2, settings.lr)
    assert len(seen) == 1
    assert learn.act_stats.record.layers == ['body.0.0', 'body.0.1', 'body.0.2'] and len(learn.act_stats.record) == 28
