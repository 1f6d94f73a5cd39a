"""One way to say which layers, for records, callbacks, comparisons, pictures and tables."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fastai.basics import Learner
from helpers import make_record, quiet, tiny

from fastai_actstats.all import ActStats, GradStats, WeightStats, compare
from fastai_actstats.core.selection import select

NAMES = ['stem', 'h.0.fc', 'h.0.norm', 'h.1.fc', 'h.1.norm', 'head']

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

@pytest.fixture(scope='module')
def rec(): return make_record(6).replace(layers=NAMES, info={n: dict(type='Linear') for n in NAMES})

WAYS = [(0, [0]), (-1, [5]), ('head', [5]), ('*.fc', [1, 3]), (slice(1, 3), [1, 2]), ([0, 'head'], [0, 5]),
        (['*.norm', -1], [2, 4, 5]), (range(2), [0, 1]), (None, list(range(6)))]

@pytest.mark.parametrize('several, places', WAYS, ids=str)
def test_it_means_the_same_everywhere(rec, several, places):
    wanted = [NAMES[i] for i in places]
    assert select(NAMES, several) == places and rec[several].layers == wanted
    assert rec.overview(several).layer.tolist() == wanted and list(dict.fromkeys(rec.to_df(several).layer)) == wanted
    drawn = [ax.get_title().split('  ')[0] for ax in rec.color_dim(several).axes if ax.get_title()]
    assert drawn == wanted
    assert [l.get_label().split('  ')[0] for l in rec.plot_stats('std', several).axes[0].lines[:len(wanted)]] == wanted
    rows = rec.heatmap(layers=several).axes[0].get_yticklabels()
    assert [t.get_text().split('  ')[0] for t in rows] == wanted
    both = compare(rec, rec.replace(notes='other'))
    assert both.table(several).layer.tolist() == wanted*2
    named = [t.get_text().split('  ')[0] for t in both.difference(layers=several).axes[0].get_yticklabels()]
    assert named == wanted
    for fig in (both.color_dim(several), both.plot_stats('mean', several)):
        assert [t for ax in fig.axes if (t := ax.get_ylabel().split('\n')[0]) in NAMES] == wanted
    assert [a.get_title().split('  ')[0] for a in rec.ridge(several).axes] == wanted

def test_what_is_not_there_is_said_with_what_there_is(rec):
    both = compare(rec, rec)
    for wrong in (6, -7, 'tail', 'h.9.*', True, 1.5, ['head', 'tail']):
        for ask in (rec.color_dim, rec.overview, both.color_dim, both.table, rec.ridge):
            with pytest.raises(IndexError, match='is not among the 6 recorded: stem, h.0.fc'): ask(wrong)
    with pytest.raises(IndexError, match='stands for 2 layers: h.0.fc, h.1.fc'): rec.layer_index('*.fc')

def test_a_word_is_one_statistic_and_no_layer(rec):
    assert [a.get_title() for a in rec.plot_stats(stats='std').axes] == ['standard deviation']
    with pytest.raises(ValueError, match="'head' is no statistic of a record, such as mean"): rec.plot_stats('head')
    with pytest.raises(ValueError, match="'hea' is no statistic"): rec.plot_stats(['mean', 'hea'])
    with pytest.raises(ValueError, match='layers= chooses layers'): rec.heatmap('head')
    with pytest.raises(ValueError, match='is no statistic'): compare(rec, rec).plot_stats('0')

def test_callbacks_take_it_too(tmp_path):
    learn = tiny(tmp_path, ActStats(), GradStats(), WeightStats())
    learn.fit(1, .01)
    act, grad, weight = learn.act_stats, learn.grad_stats, learn.weight_stats
    def drawn(fig): return [a.get_title().split('  ')[0] for a in fig.axes if a.get_title()]
    assert drawn(act.color_dim(0)) == drawn(act.color_dim(layer='0')) == drawn(act.color_dim(layers=['0'])) == ['0']
    assert drawn(act.color_dim([0, '2'])) == drawn(act.color_dim('*')) == ['0', '2']
    assert drawn(grad.color_dim()) == ['0', '2'] and drawn(grad.color_dim(-1)) == ['2']
    assert drawn(weight.color_dim('*.bias')) == ['0.bias', '2.bias']
    assert len(weight.plot_update_ratio('0.*').axes[0].lines) >= 2
    assert act.hist(0).shape[0] == 80 and len(act.layer_stats(-1)) == 3  # as fastai's callback has them
    assert len(act.plot_layer_stats(0).axes) == 3

def test_record_color_dim_of_0_draws_the_first_layer(rec):
    fig = rec.color_dim(0)
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == ['stem  Linear']
    drawn = fig.axes[0].collections[0].get_array().data.reshape(rec.bins.n, len(rec))
    np.testing.assert_allclose(drawn, np.log1p(rec.hist[:, 0].T))

# which runs

def test_runs_are_named_by_their_notes_or_a_b(rec, tmp_path):
    a, b = rec.replace(notes='small rate'), rec.replace(notes=dict(name='large rate', lr=1))
    for both in (compare(a, b), compare([a, b]), compare((a, b))):
        assert list(both.runs) == ['small rate', 'large rate']
    assert list(compare(rec, rec).runs) == list(compare([rec, a]).runs) == list(compare(a, a).runs) == ['a', 'b']
    assert list(compare({'1e-3': a, '1e-2': b}).runs) == ['1e-3', '1e-2']
    assert list(compare(x=a, y=b).runs) == ['x', 'y']
    assert list(compare({'1e-3': a}, y=b).runs) == ['1e-3', 'y']
    assert list(compare(a, y=b).runs) == ['small rate', 'y']
    files = [rec.save(tmp_path/f'{name}.npz') for name in ('monday', 'tuesday')]
    assert list(compare(*files).runs) == ['monday', 'tuesday']
    with pytest.raises(ValueError, match='two runs are named y'): compare({'y': a}, y=b)
    with pytest.raises(ValueError, match='1 run to compare'): compare(a)
    learn = tiny(tmp_path, ActStats())
    assert isinstance(learn, Learner) and quiet(learn)
    learn.fit(1, .01)
    assert list(compare(learn, learn.act_stats).runs) == ['a', 'b']
