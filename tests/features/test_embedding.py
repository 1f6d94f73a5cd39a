"""Samples are uniform, reproducible, of the right activations; embeddings are scikit-learn's."""
import copy
import pickle
import sys
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.basics import Callback, CancelFitException
from helpers import hooks_on
from scipy.stats import chisquare
from sklearn.decomposition import PCA
from torch import nn

from fastai_actstats.callbacks.sample import ActSample
from fastai_actstats.core.samples import Reservoir, Sample
from fastai_actstats.features.embedding import embed, heatmap
from fastai_actstats.features.sampling import sample_activations


def kept(n, total, batch, seed):
    r = Reservoir(n, seed)
    for i in range(0, total, batch):
        values = torch.arange(i, min(i + batch, total))
        r.begin(len(values))
        r.put('x', values)
    index, values = r.read()
    assert np.array_equal(index, values['x'])
    return index.tolist()

def test_every_item_is_as_likely():
    n, total, times = 7, 40, 1500
    counts = np.bincount(np.concatenate([kept(n, total, 9, seed) for seed in range(times)]), minlength=total)
    assert counts.sum() == n*times
    # without replacement the counts vary less than multinomial ones, by (1 - n/total): scaled, they follow chi-square
    scaled = ((counts - n*times/total)**2/(n*times/total)).sum()/(1 - n/total)*(total - 1)/total
    assert chisquare(counts).pvalue > 1e-3 and 15 < scaled < 75  # 39 degrees of freedom

def test_pairs_are_as_likely_too():
    pairs = np.zeros((8, 8), int)
    for seed in range(2000):
        a, b = kept(2, 8, 3, seed)
        pairs[a, b] += 1
    assert chisquare(pairs[np.triu_indices(8, 1)]).pvalue > 1e-3

def test_a_seed_decides_whatever_the_batch_size():
    assert kept(10, 200, 200, 5) == kept(10, 200, 7, 5) == kept(10, 200, 1, 5) != kept(10, 200, 7, 6)
    assert kept(10, 6, 4, 0) == list(range(6)) and kept(10, 10, 4, 0) == list(range(10))
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match='must be a whole number of items'): Reservoir(n)

@pytest.mark.parametrize('pool', ['mean', 'max', None])
def test_samples_hold_the_activations(learner, pool):
    learn = learner()
    s = sample_activations(learn, ['0.2', '4.0', '5'], 100, pool=pool, seed=3)
    assert len(s) == 100 and s.info['seen'] == len(learn.dls.valid_ds) and s.layers == ['0.2', '4.0', '5']
    x, y = map(torch.stack, zip(*[learn.dls.valid_ds[i] for i in s.index]))
    with torch.no_grad():
        model = learn.model.eval()
        maps = model[0](x)
        expected = maps.flatten(1) if pool is None else maps.mean((2, 3)) if pool == 'mean' else maps.amax((2, 3))
        assert np.allclose(s.layer('0.2'), expected, atol=1e-6) and np.allclose(s.layer('5'), model(x), atol=1e-5)
        assert np.array_equal(s.target, y) and np.array_equal(s.prediction, model(x).argmax(1))
    with pytest.raises(IndexError, match="layer None is not among the 3 sampled: 0.2, 4.0, 5"): s.layer()

def test_each_epoch_is_sampled_from_the_same_items(learner):
    learn = learner(cbs=ActSample(['3.2', '5'], 60, every_epoch=True, seed=1))
    learn.fit(2, 0.05)
    after = sample_activations(learn, ['3.2', '5'], 60, seed=1)
    s = learn.act_sample.sample
    assert s.epochs == [0, 1] and len(s) == 120
    assert np.array_equal(s.at(0).index, after.index) and np.array_equal(s.at(-1).index, after.index)
    for layer in s.layers:
        assert np.allclose(s.at(1).layer(layer), after.layer(layer), atol=1e-6)
        assert not np.allclose(s.at(0).layer(layer), after.layer(layer), atol=1e-3)
    assert np.array_equal(s.at(1).prediction, after.prediction) and np.array_equal(s.at(1).target, after.target)
    learn.validate()
    learn.get_preds()
    learn.fit(1, 0.01)
    assert learn.act_sample.sample.epochs == [0, 1, 2] and not hooks_on(learn.model)
    last = learner(cbs=ActSample('5', 60))
    last.fit(2, 0.05)
    assert last.act_sample.sample.epochs == [1]
    with pytest.raises(IndexError, match=r'epoch 7 is not among those sampled: \[1\]'): last.act_sample.sample.at(7)

def test_a_compiled_model_is_sampled_too(learner):
    torch._dynamo.reset()
    samples, compiles = [], []
    for compiled in (False, True):
        learn = learner(cbs=ActSample(['0.2', '4.0'], n=20, every_epoch=True))
        if compiled: learn.model.compile(backend=lambda graph, inputs: compiles.append(1) or graph.forward)
        learn.fit(2, 1e-3)
        first = len(compiles)
        learn.fit(1, 1e-3)
        samples.append(learn.act_sample.sample)
    plain, got = samples
    assert np.array_equal(plain.index, got.index) and len(got) == 60 and first == len(compiles) > 0
    for name in ('0.2', '4.0'): np.testing.assert_allclose(got.acts[name], plain.acts[name], rtol=1e-4, atol=1e-5)

def test_training_is_the_same_with_and_without(learner):
    def run(cbs):
        learn = learner(cbs=cbs)
        learn.fit(2, 0.05)
        return learn.recorder.values, [p.tolist() for p in learn.model.parameters()], torch.get_rng_state().tolist()
    assert run(None) == run(ActSample(n=50, every_epoch=True)) == run(ActSample(n=50, pool=None))

class Fail(Callback):
    order = 100
    def __init__(self, error): self.error = error
    def after_pred(self):
        if not self.training and self.iter == 2: raise self.error('in the middle')

@pytest.mark.parametrize('error', [CancelFitException, KeyboardInterrupt, ZeroDivisionError])
def test_a_fit_that_ends_early_leaves_nothing(learner, error):
    learn = learner(cbs=[ActSample(n=10), Fail(error)])
    try: learn.fit(1, 0.05)
    except (KeyboardInterrupt, ZeroDivisionError): pass
    assert not hooks_on(learn.model) and 'all_batches' not in learn.__dict__ and learn.act_sample.reservoir is None
    if not learn.act_sample.samples:
        with pytest.raises(ValueError, match='nothing is sampled'): _ = learn.act_sample.sample
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, Fail)))
    learn.fit(1, 0.05)
    assert len(learn.act_sample.sample) == 10

class CopyInValidation(Callback):
    order = 100
    def after_pred(self):
        if not self.training and self.iter == 1:
            self.copies = copy.deepcopy(self.learn.model), copy.deepcopy(self.learn.act_sample)

def test_copies_and_pickles(learner, tmp_path):
    learn = learner(cbs=[ActSample('5', n=10), CopyInValidation()])
    learn.fit(1, 0.05)
    model, callback = learn.copy_in_validation.copies
    with torch.no_grad(): model(torch.zeros(1, 1, 28, 28))
    assert callback.n == 10 and len(pickle.loads(pickle.dumps(copy.deepcopy(learn.act_sample))).sample) == 10

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.body, self.windows, self.tops = nn.Flatten(), nn.Linear(784, 10), nn.Identity(), nn.Identity()
    def forward(self, x):
        self.windows(x.view(-1, 7))
        self.tops(x.argmax(-1))
        return self.body(self.flat(x))

def test_layers_that_do_not_fit_are_left_out(learner):
    learn = learner(model=Odd(), cbs=ActSample(['windows', 'tops', 'body'], 20))
    with pytest.warns(UserWarning) as said: learn.fit(1, 0.01)
    texts = sorted(str(w.message) for w in said if 'left out' in str(w.message))
    assert texts == ["layer 'tops' is left out of the sample: no tensor of floats in its output",
                     "layer 'windows' is left out of the sample: shape (7168, 7) for a batch of 64"]
    assert learn.act_sample.sample.layers == ['body']

def test_bad_arguments(learner):
    with pytest.raises(ValueError, match="pool='sum' must be one of"): ActSample(pool='sum')
    with pytest.raises(ValueError, match="n=0 must be a whole number"): ActSample(n=0)
    with pytest.raises(TypeError, match="give dl="): sample_activations(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="layers='z' matches none"): sample_activations(learner(), 'z')
    wrong = learner(model=nn.Sequential(nn.Conv2d(3, 1, 3)))
    with pytest.raises(ValueError, match=r"shape \(64, 1, 28, 28\), in layer '0'"): sample_activations(wrong)

def test_a_torch_data_loader():
    data = torch.utils.data.TensorDataset(torch.randn(30, 4), torch.arange(30))
    s = sample_activations(nn.Sequential(nn.Linear(4, 3)), n=12, dl=torch.utils.data.DataLoader(data, batch_size=8))
    assert np.array_equal(s.target, s.index) and s.layer().shape == (12, 3)

# files

@pytest.fixture
def sample():
    rng = np.random.RandomState(0)
    x = rng.randn(80, 6).astype(np.float32)
    target = np.arange(80) % 4
    x[np.arange(80), target] += 4
    return Sample({'a.b/c': x, '0': x[:, :1]}, np.arange(80), np.repeat([0, 1], 40), target, target[::-1].copy(),
                  dict(seed=1, pool='mean', seen=99, vocab=list('wxyz')))

def same(a, b):
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ('index', 'epoch', 'target', 'prediction'))
    return arrays and a.info == b.info and a.layers == b.layers and all(np.array_equal(a.acts[k], b.acts[k])
                                                                        for k in a.acts)

def test_saved_and_loaded(sample, tmp_path):
    sample.save(tmp_path/'s.npz')
    assert same(Sample.load(tmp_path/'s.npz'), sample)
    bare = Sample(sample.acts, sample.index)
    bare.save(tmp_path/'s.npz')
    assert Sample.load(tmp_path/'s.npz').target is None and [f.name for f in tmp_path.iterdir()] == ['s.npz']

def test_an_interrupted_save_leaves_the_old_file(sample, tmp_path, monkeypatch):
    sample.save(tmp_path/'s.npz')
    def full(f, arrays):
        f.write(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('fastai_actstats.core.samples.write_arrays', full)
    with pytest.raises(OSError, match='No space'): sample[:5].save(tmp_path/'s.npz')
    assert same(Sample.load(tmp_path/'s.npz'), sample) and [f.name for f in tmp_path.iterdir()] == ['s.npz']

def test_other_files_are_refused(sample, tmp_path):
    path = tmp_path/'s.npz'
    sample.save(path)
    whole = path.read_bytes()
    def arrays(**kw): np.savez(path, **(dict(np.load(path)) | kw))
    for spoil in [lambda: path.write_bytes(whole[:len(whole)//2]), lambda: path.write_bytes(b'text'),
                  lambda: np.savez(path, x=1), lambda: arrays(target=np.array([{}, []], object)),
                  lambda: arrays(meta='{"kind": "other", "version": 1}'), lambda: arrays(index=np.arange(3)),
                  lambda: arrays(act0=np.zeros(80))]:
        path.write_bytes(whole)
        spoil()
        with pytest.raises(ValueError, match='is not a saved Sample') as e: Sample.load(path)
        assert len(str(e.value).splitlines()) == 1
    with pytest.raises(FileNotFoundError): Sample.load(tmp_path/'none.npz')

# embeddings

def test_pca_is_scikit_learns_and_the_svds(sample):
    e = embed(sample, layer='a.b/c')
    x = sample.layer('a.b/c')
    assert np.allclose(e.df[['x', 'y']], PCA(2).fit_transform(x), atol=1e-5)
    centred = x.astype(float) - x.astype(float).mean(0)
    u, s, v = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(e.df[['x', 'y']]), np.abs(u[:, :2]*s[:2]), atol=1e-5)
    assert e.df['when'].tolist() == ['epoch 0']*40 + ['epoch 1']*40 and e.df['target'].tolist()[:4] == list('wxyz')

def test_several_samples_share_an_embedding(sample):
    one, two = sample.at(0), sample.at(1)
    e = embed({'before': one, 'after': two}, layer='a.b/c')
    assert np.allclose(e.df[['x', 'y']], embed(sample, layer='a.b/c').df[['x', 'y']])
    assert e.df['when'].unique().tolist() == ['before', 'after']
    fig = e.plot('prediction')
    panels = fig.axes[:2]
    assert [a.get_title() for a in panels] == ['before', 'after'] and panels[0].get_xlim() == panels[1].get_xlim()
    for ax, when in zip(panels, ('before', 'after')):
        assert np.allclose(ax.collections[0].get_offsets(), e.df.loc[e.df['when'] == when, ['x', 'y']])
    assert [t.get_text() for t in fig.legends[0].get_texts()] == list('wxyz')
    plt.close('all')

def test_tsne_is_decided_by_its_seed(sample):
    points = [embed(sample[:30], 'tsne', 'a.b/c', seed=s, max_iter=250, init='random').df[['x', 'y']].to_numpy()
              for s in (1, 1, 2)]
    assert np.array_equal(points[0], points[1]) and not np.allclose(points[0], points[2])

def test_umap_is_asked_for_what_was_asked(sample, monkeypatch):
    asked = {}
    class UMAP:
        def __init__(self, **kwargs): asked.update(kwargs)
        def fit_transform(self, x): return x[:, :2]
    monkeypatch.setitem(sys.modules, 'umap', ModuleType('umap'))
    sys.modules['umap'].UMAP = UMAP
    assert np.allclose(embed(sample, 'umap', 'a.b/c', seed=7, min_dist=.3).df['x'], sample.layer('a.b/c')[:, 0])
    assert asked == dict(n_components=2, random_state=7, n_jobs=1, min_dist=.3)
    monkeypatch.setitem(sys.modules, 'umap', None)
    with pytest.raises(ImportError, match=r"pip install 'fastai_actstats\[umap\]'"): embed(sample, 'umap', 'a.b/c')

def test_what_cannot_be_embedded(sample):
    for call, kind, said in [
        (lambda: embed(sample, 'lda', 'a.b/c'), ValueError, "method='lda' must be one of"),
        (lambda: embed(sample), IndexError, 'a.b/c, 0'), (lambda: embed([sample]), TypeError, 'give a Sample'),
        (lambda: embed(sample[:3], layer='a.b/c'), ValueError, '3 rows'),
        (lambda: embed(sample, layer='0'), ValueError, 'nothing to embed'),
        (lambda: heatmap(sample, '0', color='size'), ValueError, 'color=')]:
        with pytest.raises(kind, match=said): call()
    sample.acts['a.b/c'][3, 2] = np.nan
    with pytest.warns(UserWarning, match='1 of 80 rows hold NaN or Inf'):
        assert 3 not in embed(sample, layer='a.b/c').df['index'].to_numpy()

def test_the_heat_map_shows_the_last_epoch_by_target(sample):
    fig = heatmap(sample, 'a.b/c')
    drawn = next(a for a in fig.axes if a.get_xlabel() == 'unit').collections[0].get_array().reshape(40, 6)
    last = sample.at(1)
    assert np.allclose(drawn, last.layer('a.b/c')[np.argsort(last.target, kind='stable')])
    clustered = heatmap(sample, 'a.b/c', cluster=True)
    drawn = next(a for a in clustered.axes if a.get_xlabel() == 'unit').collections[0].get_array()
    assert np.allclose(np.sort(drawn.ravel()), np.sort(last.layer('a.b/c').ravel()))
    many = Sample(last.acts, last.index, target=np.linspace(0, 1, 40))
    heatmap(many, 'a.b/c')
    embed(many, layer='a.b/c').plot()
    plt.close('all')
