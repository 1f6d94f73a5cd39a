"""Embeddings are scikit-learn's, and pictures of them hold what was sampled."""
import sys
from types import ModuleType

import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import make_sample
from sklearn.decomposition import PCA

from fastai_actstats.core.samples import Sample
from fastai_actstats.features.embedding import embed, heatmap


@pytest.fixture
def sample(): return make_sample()

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
        (lambda: sample.heatmap('0', color='size'), ValueError, 'color=')]:
        with pytest.raises(kind, match=said): call()
    sample.acts['a.b/c'][3, 2] = np.nan
    with pytest.warns(UserWarning, match='1 of 80 rows hold NaN or Inf'):
        assert 3 not in embed(sample, layer='a.b/c').df['index'].to_numpy()

def test_the_heat_map_shows_the_last_epoch_by_target(sample):
    fig = sample.heatmap('a.b/c')
    drawn = next(a for a in fig.axes if a.get_xlabel() == 'unit').collections[0].get_array().reshape(40, 6)
    last = sample.at(1)
    assert np.allclose(drawn, last.layer('a.b/c')[np.argsort(last.target, kind='stable')])
    clustered = sample.heatmap('a.b/c', cluster=True)
    drawn = next(a for a in clustered.axes if a.get_xlabel() == 'unit').collections[0].get_array()
    assert np.allclose(np.sort(drawn.ravel()), np.sort(last.layer('a.b/c').ravel()))
    many = Sample(last.acts, last.index, target=np.linspace(0, 1, 40))
    many.heatmap('a.b/c')
    embed(many, layer='a.b/c').plot()
    plt.close('all')
