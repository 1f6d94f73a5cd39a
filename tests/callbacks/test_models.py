"""Every family of models: recorded as plain hooks record it, training untouched, nothing left behind."""
import warnings

import numpy as np
import pytest
import torch
from families import FAMILIES, batches
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from helpers import Keep, LossTrace, hooks_on, quiet, same
from torch import nn

from fastai_actstats.all import ActStats
from fastai_actstats.core.layers import choose


def fit(family, *cbs, epochs=2, **kwargs):
    set_seed(7)
    model, dls = FAMILIES[family]()
    loss = CrossEntropyLossFlat(axis=1) if 'unet' in family else CrossEntropyLossFlat()
    if 'AWD' in family: loss = lambda pred, y: nn.functional.cross_entropy(pred[0], y)
    trace = LossTrace()
    learn = quiet(Learner(dls, model, loss_func=loss, cbs=[*cbs, trace], **kwargs))
    learn.fit(epochs, 1e-3)
    return learn, (torch.stack(trace.seen), *model.state_dict().values(), torch.get_rng_state())

LAYERS = {'tuples, dicts, dataclasses': lambda n, m: '.' not in n and n != 'Structured',
          'shared, repeated, skipped layers': lambda n, m: '.' not in n and n != 'Shared'}

@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_family(family, record_row):
    layers = LAYERS.get(family)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'dropout option adds dropout')
        warnings.filterwarnings('ignore', '.*non-full backward hook')
        ours, plain = ActStats(layers), Keep(layers)
        learn, watched = fit(family, plain, ours)
        _, alone = fit(family)
    rec = ours.record
    assert rec.layers == list(choose(learn.model, layers)) and len(rec) == len(plain.rows)
    for t, row in enumerate(plain.rows):
        for i, name in enumerate(rec.layers):
            if name not in row: assert rec.count[t, i] == 0 and np.isnan(rec.mean[t, i]); continue
            x = row[name].numpy()
            assert rec.count[t, i] == x.size
            np.testing.assert_allclose(rec.mean[t, i], x.mean(), rtol=1e-6, atol=1e-9*np.abs(x).max())
            np.testing.assert_allclose(rec.std[t, i], x.std(ddof=1), rtol=1e-6, atol=1e-12)
    left = set(hooks_on(learn.model)) - set(hooks_on(FAMILIES[family]()[0]))  # fastai's unet has hooks of its own
    assert same(watched, alone) and not left
    record_row('models', family, 'yes', 'yes', 'yes')

def test_calls_are_told_apart_on_request():
    set_seed(7)
    merged, apart = ActStats(['relu', 'cell']), ActStats(['relu', 'cell'], calls=4)
    learn = quiet(Learner(*reversed(FAMILIES['shared, repeated, skipped layers']()), loss_func=CrossEntropyLossFlat(),
                          cbs=[merged]))
    apart_learn = quiet(Learner(learn.dls, learn.model, loss_func=learn.loss_func, cbs=[apart]))
    learn.fit(1, 0.)
    apart_learn.fit(1, 0.)
    rec = apart.record
    assert rec.layers == ['relu', 'relu:2', 'cell', 'cell:2', 'cell:3', 'cell:4'], "calls that never came have no row"
    assert merged.record.layers == ['relu', 'cell']
    assert (rec['relu*'].hist.sum(1) == merged.record['relu'].hist[:, 0]).all()
    assert (rec['cell*'].hist.sum(1) == merged.record['cell'].hist[:, 0]).all()
    assert (rec.count[:, rec.layer_index('cell:4')]
            == 3*rec.count[:, rec.layer_index('cell')]).all(), "the last takes the rest: 4, 5, 6"

class Odd(nn.Module):
    "Outputs that are hard to read: `kind` says which"
    def __init__(self, kind):
        super().__init__()
        self.lin, self.kind = nn.Linear(8, 8), kind
    def forward(self, x):
        x = self.lin(x)
        if self.kind == 'quantised': return torch.quantize_per_tensor(x.detach(), .1, 0, torch.qint8)
        return {'integer': x.argmax(1), 'boolean': x > 0, 'sparse': x.to_sparse(), 'complex': x.to(torch.complex64),
                'empty': x[:0], 'expanded': x[:1].expand(1000, 8), 'transposed': x.t(), 'sliced': x[:, ::3],
                'large': x.new_zeros(1).expand(2_000_000_000), 'none': None, 'string': 'x'}[self.kind]

class WithOdd(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.odd, self.head = Odd(kind), nn.Linear(8, 5)
    def forward(self, x):
        self.odd(x)
        return self.head(x)

@pytest.mark.parametrize('kind', ['integer', 'boolean', 'sparse', 'quantised', 'complex', 'none', 'string'])
@pytest.mark.filterwarnings('ignore:.*quantize_per_tensor', 'ignore:.*deprecat')
def test_outputs_without_plain_floats_are_left_out_with_one_warning(kind):
    ours = ActStats(['odd', 'head'])
    learn = quiet(Learner(batches(torch.randn(32, 8), torch.randint(0, 5, (32,))), WithOdd(kind),
                          loss_func=CrossEntropyLossFlat(), cbs=ours))
    with pytest.warns(UserWarning, match="layer 'odd' is left out of the record: no floating-point tensor") as seen:
        learn.fit(2, 1e-3)
    assert len([w for w in seen if 'left out' in str(w.message)]) == 1
    assert ours.record.layers == ['head'] and len(ours.record) == 8

@pytest.mark.parametrize('kind,count', [('empty', 0), ('expanded', 8000), ('transposed', 64), ('sliced', 24),
                                        ('large', 2_000_000_000)])
def test_outputs_of_odd_shapes(kind, count):
    ours = ActStats('odd')
    quiet(Learner(batches(torch.randn(16, 8), torch.randint(0, 5, (16,))), WithOdd(kind),
                  loss_func=CrossEntropyLossFlat(), cbs=ours)).fit(1, 1e-3)
    assert ours.record.count.tolist() == [[count]]*2

def test_pick_chooses_the_tensor():
    ours = ActStats('lstm', pick=lambda o: o[1][1])  # the cell state
    learn = quiet(Learner(*reversed(FAMILIES['tuples, dicts, dataclasses']()),
                          loss_func=CrossEntropyLossFlat(), cbs=ours))
    learn.fit(1, 1e-3)
    assert ours.record.info['lstm']['shape'] == (2, 6, 12) and (ours.record.count == 2*6*12).all()

def test_modules_added_replaced_and_frozen_between_fits():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    ours = ActStats()
    learn = quiet(Learner(batches(torch.randn(16, 8), torch.randint(0, 5, (16,))), model,
                          loss_func=CrossEntropyLossFlat(), cbs=ours))
    learn.fit(1, 1e-3)
    model[0] = nn.Linear(8, 8)
    model.append(nn.Linear(5, 5))
    learn.create_opt()
    learn.freeze()
    learn.fit(1, 1e-3)
    rec = ours.record
    assert rec.layers == ['0', '2', '3'] and rec.fits.tolist() == [0, 0, 1, 1]
    assert (rec.count[:, 2] == [0, 0, 40, 40]).all() and np.isnan(rec.mean[:2, 2]).all()
    assert (rec.count[:, :2] > 0).all()
    assert not hooks_on(model)

def test_a_second_learner_on_the_model_and_one_callback_for_two():
    dls = batches(torch.randn(16, 8), torch.randint(0, 5, (16,)))
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))
    one, other = ActStats(), ActStats(nn.ReLU)
    a, b = (quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=cb)) for cb in (one, other))
    a.fit(1, 1e-3)
    b.fit(1, 1e-3)
    assert len(one.record) == len(other.record) == 2 and one.record.layers == ['0', '2']
    assert other.record.layers == ['1']
    c = quiet(Learner(dls, nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)),
                      loss_func=CrossEntropyLossFlat(), cbs=one))
    c.fit(1, 1e-3)
    assert len(one.record) == 4 and one.record.fits.tolist() == [0, 0, 1, 1] and (one.record.count > 0).all()
    assert not hooks_on(model) and not hooks_on(c.model)

def test_channels_last_and_strided_outputs_are_not_copied():
    from fastai_actstats.kernels.eager import memory_order
    x = torch.randn(4, 8, 6, 6).to(memory_format=torch.channels_last)
    for y in (x, x.permute(3, 1, 0, 2), torch.randn(5, 1).expand(5, 9)): assert memory_order(y)[0].data_ptr() == y.data_ptr()

def test_replicas_in_threads():
    "DataParallel copies a module's `__dict__`, hooks and all, and runs the copies in threads"
    import threading

    from fastai_actstats.callbacks.hooks import Tap
    from fastai_actstats.core.accumulator import Recorder
    from fastai_actstats.kernels.bins import Bins
    net = nn.Linear(64, 64)
    recorder = Recorder(Bins())
    recorder.prepare(['net'], torch.device('cpu'))
    handle = net.register_forward_hook(Tap(recorder, 'net'))
    replicas = [net._replicate_for_data_parallel() for _ in range(4)]
    for r in replicas:
        for name, p in net._parameters.items(): setattr(r, name, p.detach())  # as torch.nn.parallel.replicate does
    recorder.open(True)
    parts = [torch.randn(200, 64) for _ in range(40)]
    def run(i):
        for x in parts[i::4]: replicas[i](x)
    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    recorder.close((0, 0))
    handle.remove()
    want = net(torch.cat(parts)).double()
    rec = recorder.record
    assert rec.count[0, 0] == want.numel() and np.isclose(rec.mean[0, 0], want.mean().item(), atol=1e-9)
    assert np.isclose(rec.std[0, 0], want.std().item(), rtol=1e-9)
