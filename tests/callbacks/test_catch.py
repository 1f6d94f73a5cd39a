"""`CatchBatch`: the batch that did it, by its items, whoever loads them; and training is as without it."""
import json
import os
import threading
import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from damage import mutant, rezip
from fastai.basics import Callback, DataLoaders, Datasets, Learner, MSELossFlat, set_seed
from fastai.callback.mixup import MixUp
from fastai.callback.training import GradientAccumulation
from fastai.vision.all import Categorize, PILImageBW, ToTensor
from helpers import CpuAmp, LossTrace, hooks_on, quiet, reference_cnn, same, seeded
from torch import nn

from fastai_actstats.all import ActStats, CatchBatch
from fastai_actstats.core import batches
from fastai_actstats.core.states import rng_states
from fastai_actstats.core.verdict import layer_parts

BAD, SIZE = 123, 240

class Samples(torch.utils.data.Dataset):
    "Digits by index, one of which is damaged"
    def __init__(self, ds, damage): self.ds, self.damage = ds, damage
    def __len__(self): return SIZE
    def __getitem__(self, i):
        x, y = self.ds[i]
        return (self.damage(x) if i == BAD else x), y

def nan_in_one_pixel(x):
    x = x.clone()
    x[0, 14, 14] = torch.nan
    return x

DAMAGE = {'times 1e4': lambda x: x*1e4, 'one NaN': nan_in_one_pixel}

def learner(few, settings, cbs, damage=lambda x: x, workers=0, seed=2, path=None, **kwargs):
    set_seed(1)
    dls = DataLoaders.from_dsets(Samples(few.train_ds, damage), Samples(few.valid_ds, damage), bs=8,
                                 num_workers=workers, device=torch.device('cpu'))
    learn = seeded(few, settings, cbs, reference_cnn(), dls, path=path, **kwargs)
    for dl in dls: dl.rng.seed(seed)  # with 2 the damaged one is in batch 23
    return learn

def fit(learn, epochs=1, lr=1e-3):
    "What was warned of in it"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn.fit(epochs, lr)
    return [str(w.message) for w in said]

WAYS = {'plain': (0, list), 'two workers': (2, list), 'accumulation': (0, lambda: [GradientAccumulation(24)]),
        'AMP': (0, lambda: [CpuAmp()]),
        'two workers, AMP, accumulation': (2, lambda: [CpuAmp(), GradientAccumulation(16)])}

@pytest.mark.slow
@pytest.mark.parametrize('watched', [True, False], ids=['with ActStats', 'alone'])
@pytest.mark.parametrize('damage', DAMAGE)
@pytest.mark.parametrize('way', WAYS)
def test_the_damaged_sample_is_caught_by_its_index(way, damage, watched, few, settings, tmp_path, record_row):
    workers, more = WAYS[way]
    stats = [ActStats()] if watched else []
    cbs = [*stats, CatchBatch(n=4, stop=True), *more()]
    learn = learner(few, settings, cbs, DAMAGE[damage], workers, path=tmp_path)
    said = fit(learn)
    assert learn.catch_batch.files == [tmp_path/'caught.npz'] and len(said) == 1 and 'caught.npz' in said[0]
    caught = CatchBatch.load(tmp_path/'caught.npz')
    assert BAD in caught.indices and len(caught.indices) == 8 and len(caught.batches) <= 4
    for b in caught.batches:  # each by its own items, from the data set itself
        items = [learn.dls.train_ds[i] for i in b.indices]
        assert torch.equal(b.xb[0].nan_to_num(-7.), torch.stack([x for x, _ in items]).nan_to_num(-7.))
        assert b.yb[0].tolist() == [int(y) for _, y in items]
    assert ('not finite' in caught.reason) == (damage == 'one NaN') and caught.reason in said[0]
    if watched:
        rec = learn.act_stats.record
        assert caught.step == rec.steps[-1, 1] and 'Looked at activations' in caught.report
    assert not hooks_on(learn.model) and 'get_idxs' not in vars(learn.dls.train) and not learn.catch_batch._kept
    record_row('training', f'the batch of a damaged sample is caught: {way}', 'yes', '-', 'yes')

class Spoil(Callback):
    "What a batch, a layer or the loss becomes at a step"
    order = -30
    def __init__(self, step, what): self.step, self.what, self.now = step, what, -1
    def before_batch(self):
        if not self.training: return
        self.now += 1
        if self.now == self.step and self.what == 'weights':
            with torch.no_grad(): self.model[2][0].weight.mul_(50)
        if self.now == self.step and self.what == 'input': self.learn.xb = (self.xb[0]*1e4,)
    def after_loss(self):
        if self.what == 'loss' and self.training and self.now == self.step: self.learn.loss *= torch.nan

@pytest.mark.parametrize('what,reason', [('weights', "layer '2.0' is"), ('input', 'as large as usual'),
                                         ('loss', 'loss is not finite')])
def test_it_says_what_it_was_and_when(what, reason, few, settings, tmp_path):
    learn = learner(few, settings, [ActStats(), CatchBatch(), Spoil(20, what)], path=tmp_path)
    said = fit(learn)
    caught = CatchBatch.load(learn.catch_batch.files[0])
    assert caught.step == 20 and caught.reason.startswith('step 20: ') and reason in caught.reason
    assert caught.batch.iter == 20 and caught.batch.epoch == 0 and caught.batch.lrs == [1e-3]
    if what == 'input': assert caught.batch.xb[0].abs().max() > 1e3  # as the model got it
    if what == 'weights': assert '2.0' in caught.found and '0.0' not in caught.found
    assert len(said) == 1 and len(learn.act_stats.record) == 30  # the fit went on, and a trouble that lasts is one

@pytest.mark.slow
def test_healthy_runs_write_nothing(few, settings, tmp_path):
    for seed, lr in (1, 1e-3), (2, 1e-2), (3, 3e-2):
        learn = learner(few, settings, [ActStats(), CatchBatch()], seed=seed, path=tmp_path)
        assert not fit(learn, 3, lr) and not os.listdir(tmp_path)

def test_files_are_bounded_in_number_and_size(few, settings, tmp_path):
    (tmp_path/'caught.npz').write_text('Tyger Tyger')
    class Often(Spoil):
        def before_batch(self):
            super().before_batch()
            if self.training and self.now % 6 == 5: self.learn.xb = (self.xb[0]*1e4,)
    one = 8*28*28*4 + 8*8
    learn = learner(few, settings, [CatchBatch(n=4, most=2, limit=2*one + 45_000), Often(0, '')], path=tmp_path)
    assert len(fit(learn)) == 2 and sorted(os.listdir(tmp_path)) == ['caught.1.npz', 'caught.2.npz', 'caught.npz']
    assert (tmp_path/'caught.npz').read_text() == 'Tyger Tyger'
    caught = CatchBatch.load(tmp_path/'caught.2.npz')
    assert [b.xb is None for b in caught.batches] == [True, True, False, False] and caught.dropped == [8, 9]
    assert caught.batches[0].indices and (tmp_path/'caught.2.npz').stat().st_size < 2*one + 55_000
    with pytest.raises(ValueError, match='has no tensors of step 8: limit= was too small'):
        caught.replay(learn, batch=caught.batches[0])

def test_replay_is_what_the_model_did_and_leaves_it_as_it_was(few, settings, tmp_path, record_row):
    "Its activations in training mode, with the random numbers of then: those that `ActStats` recorded, bit for bit"
    def model():
        cnn = reference_cnn(True)
        return nn.Sequential(*cnn[:4], nn.Dropout(.5), *cnn[4:])
    set_seed(4)
    dls = DataLoaders.from_dsets(Samples(few.train_ds, DAMAGE['times 1e4']), Samples(few.valid_ds, DAMAGE['times 1e4']),
                                 bs=8, num_workers=0, device=torch.device('cpu'))
    stats = ActStats((nn.Conv2d, nn.Dropout, nn.Linear))
    learn = seeded(few, settings, [stats, CatchBatch(stop=True)], model(), dls, path=tmp_path)
    dls.train.rng.seed(2)
    fit(learn, lr=0.)  # the weights stay, and what replay gives can be compared
    caught, rec = CatchBatch.load(tmp_path/'caught.npz'), stats.record
    learn.model.eval()
    before = [*(b.clone() for b in learn.model.state_dict().values())]
    rng, python = torch.get_rng_state(), rng_states()[0]
    got = caught.replay(learn, (nn.Conv2d, nn.Dropout, nn.Linear))
    assert got.layers == rec.layers and got.steps.tolist() == [[caught.step]*2]
    then = rec.between(caught.step, caught.step)
    assert torch.equal(got.rows, then.rows)
    assert same(before, list(learn.model.state_dict().values())) and not learn.model.training
    assert torch.equal(rng, torch.get_rng_state()) and python == rng_states()[0] and not hooks_on(learn.model)
    assert not torch.equal(caught.replay(learn, '4', training=False).rows, then['4'].rows)

@pytest.mark.filterwarnings('ignore:__array__ implementation')  # of what fastai makes an image of
def test_items_are_shown_as_the_data_loaders_show_them(tmp_path):
    import matplotlib.pyplot as plt
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 12, 12), dtype=np.uint8)
    sets = Datasets(range(40), [[lambda i: images[i], PILImageBW.create], [lambda i: f'item {i}', Categorize()]],
                    splits=(range(32), range(32, 40)))
    dls = sets.dataloaders(bs=4, after_item=[ToTensor()], num_workers=0, device=torch.device('cpu'))
    class Fake(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
        def forward(self, x): return x.float().mean((1, 2, 3))*self.scale
    def loss(out, *y): return out.mean() if Fake.n else out.mean()*torch.nan
    class Count(Callback):
        order = -40
        def before_batch(self): Fake.n = self.iter != 5
    learn = quiet(Learner(dls, Fake(), loss_func=loss, path=tmp_path, cbs=[CatchBatch(stop=True), Count()]))
    fit(learn)
    caught = CatchBatch.load(tmp_path/'caught.npz')
    caught.show(learn, max_n=4)
    shown = [ax for ax in plt.gcf().axes if ax.images]
    assert [ax.get_title() for ax in shown] == [f'item {i}' for i in caught.indices]
    for ax, i in zip(shown, caught.indices):
        assert np.array_equal(np.asarray(ax.images[0].get_array()).squeeze(), images[i])
    plt.close('all')
    with pytest.raises(TypeError, match='cannot show its items'): caught.show(plain(tmp_path))

def plain(path):
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    return quiet(Learner(DataLoaders(loader, loader), nn.Linear(4, 1), loss_func=MSELossFlat(), path=path))

def test_a_loader_that_is_not_fastais_has_no_indices(tmp_path):
    learn = plain(tmp_path)
    learn.add_cbs([CatchBatch(), Spoil(2, 'loss')])
    fit(learn)
    caught = CatchBatch.load(tmp_path/'caught.npz')
    assert caught.indices is None and caught.batch.xb[0].shape == (8, 4) and 'items not known' in repr(caught)

@pytest.mark.slow
@pytest.mark.parametrize('way', [*WAYS, 'mixup', 'compiled'])
def test_training_is_untouched_to_the_last_bit(way, few, settings, tmp_path, record_row):
    workers, more = WAYS.get(way, (0, lambda: [MixUp()] if way == 'mixup' else []))
    seen = []
    for cbs in [], [ActStats(), CatchBatch(n=2)], [CatchBatch(n=2, jump=1.001, most=100)]:
        learn = learner(few, settings, [*cbs, *more(), trace := LossTrace()], workers=workers, path=tmp_path)
        if way == 'compiled': learn.model.compile(backend='eager')
        state, threads = rng_states()[0], threading.active_count()
        fit(learn)
        assert not set(vars(learn)) & {'_with_events', 'all_batches'} and not hooks_on(learn.model)
        assert rng_states()[0] == state and (workers or threading.active_count() == threads)
        seen.append([*trace.seen, *learn.model.state_dict().values(), torch.get_rng_state(), torch.rand(2)])
    assert same(seen[0], seen[1]) and same(seen[0], seen[2]) and learn.catch_batch.files
    record_row('training', f'CatchBatch: {way}', '-', 'yes', 'yes')

def test_nothing_waits_for_the_device():
    "On tensors that have no values, whatever would read one raises"
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        layer_parts(torch.rand(4, 89, dtype=torch.float64))

def test_references_and_not_copies(few, settings, tmp_path):
    seen = []
    class Look(Callback):
        order = 90
        def after_batch(self):
            if not self.training: return
            kept = self.catch_batch._kept
            seen.append(len(kept))
            assert kept[-1].xb[0] is self.learn.xb[0] and kept[-1].yb[0] is self.learn.yb[0]
    fit(learner(few, settings, [CatchBatch(n=3), Look()], path=tmp_path))
    assert max(seen) == 3

def test_evaluations_and_lr_find_catch_nothing(few, settings, tmp_path):
    learn = learner(few, settings, [CatchBatch(), ActStats()], DAMAGE['one NaN'], path=tmp_path)
    learn.validate(dl=learn.dls.train)
    learn.get_preds()
    assert not os.listdir(tmp_path) and not learn.catch_batch._kept

# files that are none, arguments

def caught_file(path):
    kept = batches.KeptBatch(3, 0, 3, [1, 2], [.1], rng_states(), (torch.randn(2, 3),), (torch.ones(2),))
    batches.write(path, [kept], 0, 2**20, reason='x', found={}, report='', rank=0)
    return path.read_bytes()

def test_files_that_are_damaged_or_foreign_are_refused_in_one_sentence(tmp_path):
    data, rng, path = caught_file(tmp_path/'caught.npz'), np.random.default_rng(0), tmp_path/'other.npz'
    assert CatchBatch.load(tmp_path/'caught.npz').indices == [1, 2]
    refused = 0
    for _ in range(int(os.environ.get('ACTSTATS_FUZZ', 300))):
        path.write_bytes(mutant(rng, data))
        try: CatchBatch.load(path)
        except ValueError as e:
            refused += 1
            assert 'was not loaded: it' in str(e) and '\n' not in str(e)
    assert refused > 200
    path.write_text('Tyger Tyger')
    with pytest.raises(ValueError, match='it is damaged, or no caught batch'): CatchBatch.load(path)
    np.savez(path, x=np.ones(3))
    with pytest.raises(ValueError, match='it is no caught batch'): CatchBatch.load(path)
    def later(members):
        meta = json.loads(np.lib.format.read_array(BytesIO(members['meta.npy'])).tobytes())
        buffer = BytesIO()
        np.lib.format.write_array(buffer, np.frombuffer(json.dumps(meta | dict(version=9)).encode(), 'u1'))
        members['meta.npy'] = buffer.getvalue()
    path.write_bytes(rezip(data, later))
    with pytest.raises(ValueError, match='it is in format 9, and this version reads 1'): CatchBatch.load(path)
    with pytest.raises(FileNotFoundError): CatchBatch.load(tmp_path/'walk.npz')

@pytest.mark.parametrize('given', [dict(n=0), dict(n='x'), dict(file=''), dict(file=5), dict(jump=1), dict(jump='x'),
                                   dict(stop=1), dict(limit=0), dict(most=0), dict(most=2.5)], ids=str)
def test_wrong_arguments(given):
    with pytest.raises((TypeError, ValueError), match=f'{next(iter(given))}='): CatchBatch(**given)

def test_a_folder_that_cannot_be_written_to(few, settings, tmp_path):
    learn = learner(few, settings, [CatchBatch(file='/dev/null/no/caught.npz'), trace := LossTrace()], path=tmp_path)
    with pytest.raises(OSError, match='CatchBatch cannot write to the folder'): learn.fit(1)
    assert not trace.seen
