"""Runs beside each other: what is joined is joined exactly, what differs is measured as the textbooks do."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.basics import DataLoaders, Learner
from fastai.callback import progress
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import nn

from fastai_actstats.all import ActStats, Bins, Record, compare
from fastai_actstats.analysis.align import common_bins, common_steps, match_layers, rebin
from fastai_actstats.analysis.compare import distance
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.demo import reference_cnn

BINS = Bins(40, -5, 5)

def run(values, bins=BINS, capacity=1024, layers=None, every=1, **kwargs):
    "Record of `values`: a list of steps, each a list of layers"
    ring = Ring(capacity, len(values[0]), bins)
    for i, row in enumerate(values):
        ring.push(torch.stack([Summary.of(torch.as_tensor(x, dtype=torch.float32), bins).rows for x in row]), i*every,
                  epoch=i*every//10)
    return Record(*ring.read(), layers or [str(i) for i in range(len(values[0]))], bins, **kwargs)

def noise(steps=20, layers=2, n=200, seed=0, scale=1.):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=n)*scale for _ in range(layers)] for _ in range(steps)]

def same(a, b):
    for name in ('count', 'hist', 'underflow', 'overflow', 'nonfinite', 'min', 'max'):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ('mean', 'std', 'near_zero'):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-12)

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

# bins
@pytest.mark.parametrize('a, b, common', [
    (Bins(80, -10, 10), Bins(40, -10, 10), Bins(40, -10, 10)),
    (Bins(80, -10, 10), Bins(40, -5, 10), Bins(20, -5, 10)),
    # 5 ends one range only: a value of 5 is inside of it there
    (Bins(80, -10, 10), Bins(40, -5, 5), Bins(39, -5, 4.75)),
    (Bins(6, -3, 3), Bins(4, -3, 3), Bins(2, -3, 3)),
    (Bins(30, 0, 3), Bins(9, -.9, .9), Bins(3, .1, .7)),
    (Bins.symlog(2.**-6, 2.**4, 4), Bins.symlog(2.**-3, 2.**4, 2), Bins.symlog(2.**-3, 2.**4, 2)),
    (Bins.symlog(2.**-6, 2.**4), Bins.symlog(2.**-6, 2.**2, eps=1e-8), Bins.symlog(2.**-6, 2.)),
])
def test_common_bins_are_exact(a, b, common):
    found = common_bins([a, b])
    assert (found.n, found.per_octave) == (common.n, common.per_octave)
    assert np.allclose([found.lo, found.hi], [common.lo, common.hi])
    np.testing.assert_allclose(found.edges, common.edges)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=5000)*3).float()
    x = torch.cat([x, torch.tensor([np.nan, np.inf, -np.inf, 0., 5., -5., 10., -10., 4., -4., 2., -2.])])
    same(*(rebin(run([[x]], bins), found) for bins in (a, b)))
    x = x[(x != found.hi) & (x != -found.hi)]  # at its very end, inside or not is a matter of whose end it is
    for bins in (a, b):
        joined = rebin(run([[x]], bins), found)
        same(joined, run([[x]], found))
        assert (joined.hist.sum(-1) + joined.underflow + joined.overflow + joined.nonfinite == joined.count).all()

@pytest.mark.parametrize('a, b', [(Bins(80, -10, 10), Bins(7, -2, 3.14)), (Bins(80, -10, 10), Bins.symlog()),
                                  (Bins(10, 0, 1), Bins(10, 2, 3)),
                                  (Bins.symlog(2.**-3, 2.), Bins.symlog(2.**2, 2.**4))])
def test_bins_with_nothing_in_common_are_refused(a, b):
    with pytest.raises(ValueError, match='in common: .*bins from .*; .*bins from'):
        compare(a=run(noise(), a), b=run(noise(), b))

@given(st.integers(1, 60), st.integers(1, 60), st.integers(-8, 4), st.integers(1, 12))
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_two_ranges_are_exact_or_refused(m, n, lo, width):
    a, b = Bins(m, -6, 6), Bins(n, lo, lo + width)
    try: found = common_bins([a, b])
    except ValueError: return
    x = torch.rand(500, generator=torch.Generator().manual_seed(m))*16 - 8
    for bins in (a, b): np.testing.assert_array_equal(rebin(run([[x]], bins), found).hist, run([[x]], found).hist)

def test_near_zero_means_one_thing_or_is_left_out():
    a, b = run(noise(), Bins(40, -5, 5, .05)), run(noise(), Bins(40, -5, 5, .1))
    with pytest.warns(UserWarning, match='near zero is another thing'): both = compare(a=a, b=b)
    assert np.isfinite(both.runs['a'].near_zero).all() and np.isnan(both.runs['b'].near_zero).all()
    assert np.isfinite(both.runs['b'].std).all()

# steps
def test_columns_of_other_widths_are_joined_where_both_begin():
    values = noise(100)
    fine, coarse = run(values, capacity=200), run(values, capacity=30)
    assert len(coarse) == 25 and coarse.columns['steps'].tolist() == [4]*25
    edges, (a, b) = common_steps([fine, coarse])
    assert edges.tolist() == list(range(0, 101, 4))
    same(a, b)
    assert (compare(a=fine, b=coarse).distances()['b'].to_numpy() == 0).all()

def test_shorter_and_sparser_runs_are_compared_as_far_as_both_go():
    edges, (a, b) = common_steps([run(noise(50)), run(noise(10), every=3)])
    assert edges.tolist() == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28] and a.count[:, 0].tolist() == [600]*9 + [200]
    edges, parts = common_steps([run(noise(50))]*2, most=7)
    assert edges[0] == 0 and edges[-1] == 50 and len(edges) <= 8 and parts[0].count.sum() == 50*2*200

def test_columns_that_never_begin_together_are_refused():
    a = run(noise(4))
    b = a.like(a.summary.rows, a.columns.copy())
    for name in ('first', 'last'): b.columns[name] += 100
    why = 'begin nowhere at the same steps: 4 columns of steps 0 to 3; 4 columns of steps 100 to 103'
    with pytest.raises(ValueError, match=why):
        compare(a=a, b=b).distances()

# distances
def test_distances_are_those_of_the_textbooks():
    bins, rng = Bins(16, -2, 2), np.random.default_rng(0)
    a, b = ([[np.append(rng.normal(size=300)*s + m, [np.nan]*k)] for _ in range(4)]
            for s, m, k in ((1, 0, 0), (1.5, .7, 30)))
    A, B = run(a, bins), run(b, bins)
    at = np.concatenate([[-2], (bins.edges[1:] + bins.edges[:-1])/2, [2]])
    for t in range(4):
        p, q = (r.summary.counts[t, 0].double().numpy() for r in (A, B))
        assert np.isclose(distance(A, B, 'w1')[t, 0], wasserstein_distance(at, at, p, q))
        exact = wasserstein_distance(np.clip(a[t][0], -2, 2), np.clip(b[t][0][np.isfinite(b[t][0])], -2, 2))
        assert abs(distance(A, B, 'w1')[t, 0] - exact) <= .25  # the width of a bin
        p, q = np.append(p, 0)/300, np.append(q, 30)/330
        assert np.isclose(distance(A, B, 'tv')[t, 0], np.maximum(p - q, 0).sum())

def test_alike_apart_and_gone():
    ones, nan = [[np.ones(50)]]*8, [[np.full(50, np.nan)]]*8
    assert (distance(run(ones), run(ones)) == 0).all() and (distance(run(ones), run([[-np.ones(50)]]*8)) == 1).all()
    assert (distance(run(ones), run(nan)) == 1).all() and np.isnan(distance(run(ones), run(nan), 'w1')).all()
    assert np.isnan(distance(run(ones), run([[np.zeros(0)]]*8))).all()
    with pytest.raises(ValueError, match="measure='kl' must be one of"): distance(run(ones), run(ones), 'kl')

def test_since_is_the_step_from_which_they_stay_apart():
    a = noise(30, 3)
    b = [[row[0], row[1] + 3*(t >= 12), row[2] + 3*(t == 5)] for t, row in enumerate(noise(30, 3))]
    both = compare(a=run(a), b=run(b))
    assert both.since() == {'b': {'0': None, '1': 12, '2': None}}
    table = both.table().set_index(['run', 'layer'])
    assert table.loc[('b', '1'), 'apart since'] == 12 and table.isna().loc[('b', '0'), 'apart since']

# layers
def trained(model, layers=None, **kwargs):
    torch.manual_seed(0)
    x, y = torch.randn(96, 1, 28, 28), torch.randint(0, 10, (96,))
    data = torch.utils.data.TensorDataset(x, y)
    dls = DataLoaders.from_dsets(data, data, bs=16, num_workers=0, device=torch.device('cpu'))
    learn = Learner(dls, model, loss_func=nn.CrossEntropyLoss(), cbs=ActStats(layers, **kwargs))
    learn.remove_cb(progress.ProgressCallback)
    learn.logger = lambda *args: None
    learn.fit(1)
    return learn

def test_the_reference_pair_matches_by_itself():
    leaves = lambda name, m: not list(m.children())
    bn, plain = (trained(reference_cnn(b), leaves).act_stats.record for b in (True, False))
    convs = [f'{i}.0' for i in range(5)]
    relus = [f'{i}.2' for i in range(4)], [f'{i}.1' for i in range(4)]
    both = compare(batchnorm=bn, plain=plain)
    assert both.names['batchnorm'] == sorted(convs + relus[0]) + ['5']
    assert both.names['plain'] == sorted(convs + relus[1]) + ['5']
    default = compare(batchnorm=bn[convs + ['0.1', '1.1']], plain=plain[convs])
    assert default.names == dict(batchnorm=convs, plain=convs)
    assert compare(plain=plain, batchnorm=bn).names['plain'] == both.names['plain']

def kinds(text): return run(noise(3, len(text)), info={str(i): dict(type=k, shape=(8, 4)) for i, k in enumerate(text)})

def test_indices_that_move_are_followed():
    names = match_layers(dict(a=kinds('cbrcbrcbrcbr'), b=kinds('crcrcrcr')))
    assert names['a'] == ['0', '2', '3', '5', '6', '8', '9', '11'] and names['b'] == [str(i) for i in range(8)]
    names = match_layers(dict(a=kinds('cbcbcb'), b=kinds('crcrc'), c=kinds('cbcbc')))
    assert names == dict(a=['0', '2', '4'], b=['0', '2', '4'], c=['0', '2', '4'])
    unknown = run(noise(3, 2), layers=['head', 'body']), run(noise(3, 2), layers=['body', 'tail'])
    assert match_layers(dict(a=unknown[0], b=unknown[1])) == dict(a=['body'], b=['body'])

def test_layers_can_be_told():
    a, b = run(noise(3, 2), layers=['body.0', 'body.1']), run(noise(3, 3), layers=['0', '1', 'x'])
    told = dict(a=['body.0', 'body.1'], b=['0', '1'])
    assert compare(a=a, b=b, layers={'body.0': '0', 'body.1': '1'}).names == told
    assert compare(a=a, b=b, layers=lambda n: n.removeprefix('body.')).names == told
    with pytest.raises(ValueError, match='none of the recorded layers in common.*a: body.0, body.1; b: 0, 1, x'):
        compare(a=a, b=b)
    with pytest.raises(IndexError, match="layer 'y' is not among the 3"): compare(a=a, b=b, layers={'body.0': 'y'})
    with pytest.raises(TypeError, match='layers=7 must be'): compare(a=a, b=b, layers=7)

# whole comparisons
def test_runs_may_be_anything_that_recorded(tmp_path):
    learn = trained(reference_cnn(True), '*.0')
    rec = learn.act_stats.record
    rec.save(tmp_path/'run.npz')
    both = compare({'last week': tmp_path/'run.npz', 'a learner': learn}, callback=learn.act_stats, record=rec,
                   text=str(tmp_path/'run.npz'))
    assert list(both.runs) == ['last week', 'a learner', 'callback', 'record', 'text']
    assert 'Comparison of 5 runs in 5 layers' in repr(both)
    assert all((d == 0).all().all() for d in both.distances().values())
    for wrong, error, why in ((3, TypeError, 'int is no run'), (nn.ReLU(), TypeError, 'ReLU is no run'),
                              (ActStats(), ValueError, 'nothing to compare'),
                              (tmp_path/'none.npz', FileNotFoundError, 'none.npz')):
        with pytest.raises(error, match=why): compare(a=rec, b=wrong)

def test_what_can_not_be_compared_is_refused():
    a, valid = run(noise()), run(noise())
    valid.columns['valid'] = True
    with pytest.raises(ValueError, match='1 run to compare'): compare(a=a)
    with pytest.raises(ValueError, match='activations and gradients are not compared'):
        compare(a=a, b=run(noise(), what='gradients'))
    with pytest.raises(ValueError, match='validation batches only'): compare(a=a, b=valid)
    assert (compare(a=valid, b=valid).distances()['b'] == 0).all().all()

def test_the_table_holds_the_figures():
    values = noise(20), noise(20, seed=1, scale=2.)
    both = compare(a=run(values[0]), b=run(values[1]))
    table = both.table().set_index(['run', 'layer'])
    assert len(table) == 4
    for when, part in (('first', slice(0, 10)), ('last', slice(10, 20))):
        x = np.concatenate([row[1] for row in values[1][part]]).astype('f4').astype(float)
        row = table.loc[('b', '1')]
        assert np.isclose(row[f'std {when}'], x.std(ddof=1)) and np.isclose(row[f'mean {when}'], x.mean())
        y = np.concatenate([row[1] for row in values[0][part]]).astype('f4')
        hists = [np.histogram(np.clip(v, -5.1, 5.1), np.r_[-6, np.linspace(-5, 5, 41), 6])[0]/len(v) for v in (x, y)]
        assert np.isclose(row[f'distance {when}'], np.abs(hists[0] - hists[1]).sum()/2)
    std = [np.std(row[1], ddof=1) for row in values[1]]
    assert np.isclose(table.loc[('b', '1'), 'std jumps'], np.abs(np.diff(np.log(std))).max(), rtol=1e-4)
    assert table.loc['a'][['distance first', 'apart since']].isna().all(axis=None)

def test_pictures_share_axes_and_colours():
    a, b = run(noise(40)), run(noise(25, scale=3.), Bins(20, -5, 5))
    both = compare(a=a, b=b)
    fig = both.color_dim()
    panels = [ax for ax in fig.axes if ax.get_label() != '<colorbar>']
    assert len(panels) == 4
    assert {(ax.get_xlim(), ax.get_ylim()) for ax in panels} == {(panels[0].get_xlim(), panels[0].get_ylim())}
    assert panels[0].get_xlim() == (0, 40)
    assert {(m.norm.vmin, m.norm.vmax, m.cmap.name) for ax in panels for m in ax.collections} == {(1e-4, 1., 'viridis')}
    assert [ax.get_title() for ax in panels[:2]] == ['a', 'b'] and panels[0].get_ylabel() == '0'
    drawn = panels[3].collections[0].get_array().reshape(20, 25)
    np.testing.assert_allclose(drawn.T, both.runs['b'].hist[:, 1]/200)
    stats = both.plot_stats()
    assert len(stats.axes) == 6 and stats.legends[0].texts[1].get_text() == 'b'
    np.testing.assert_allclose(stats.axes[1].lines[0].get_ydata(), both.runs['a'].std[:, 0])
    heat = both.difference('w1')
    drawn = heat.axes[0].collections[0].get_array().reshape(2, 25)
    np.testing.assert_allclose(drawn.T, both.distances('w1')['b'])

def test_many_layers_and_a_long_run():
    values = noise(40, 28, 20)
    many = compare(a=run(values), b=run(values))
    for fig in (many.color_dim(most=20), many.plot_stats(['std'], most=20), many.difference()):
        fig.canvas.draw()
        assert max(fig.get_size_inches()) < 25
    long = compare(a=run(noise(1, 2)*2000, capacity=64), b=run(noise(1, 2)*2000, capacity=256))
    assert long.distances()['b'].shape[0] <= 64
    long.color_dim().canvas.draw()
