"""What the pictures draw, read back from the figures."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fastai_actstats.all import Bins, Record, compare
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.plots.lines import plot_update_ratio


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

def mesh(ax): return ax.collections[0].get_array().data

def test_color_dim_draws_log_counts_of_training_columns(rec):
    fig = rec.color_dim()
    panels = [a for a in fig.axes if a.get_title()]
    assert [a.get_title() for a in panels] == [f"{n}  {rec.info[n]['type']}" for n in rec.layers]
    for i, a in enumerate(panels):
        np.testing.assert_allclose(mesh(a).reshape(80, 42), np.log1p(rec.train.hist[:, i].T))
        low, high = a.get_ylim()
        assert (low < 0) == bool(rec.train.underflow[:, i].any())
        assert (high > 80) == bool(rec.train.overflow[:, i].any())
        assert a.get_xlim() == (0, 42)
        mean = a.lines[0].get_ydata()
        np.testing.assert_allclose(mean/80*20 - 10, np.clip(rec.train.mean[:, i], -10, 10), atol=1e-9)

def test_color_dim_options(rec):
    fig, ax = plt.subplots()
    assert rec['1.1'].color_dim(ax=ax, log=False, cmap='gray', steps=(14, 27)) is ax
    np.testing.assert_allclose(mesh(ax).reshape(80, 14), rec.train['1.1'].hist[14:28, 0].T)
    assert ax.collections[0].get_cmap().name == 'gray' and ax.get_xlim() == (14, 28)
    assert ax.get_xlabel() == 'training step'
    with pytest.raises(ValueError, match='ax= takes one layer, the record has 9'): rec.color_dim(ax=ax)
    assert rec[0].color_dim(figsize=(5, 2)).get_size_inches().tolist() == [5, 2]
    assert rec.valid[0].color_dim().axes[0].get_xlim() == (0, 15)

def test_values_stand_where_the_axis_says(rec):
    ax = rec['0.0'].color_dim().axes[0]
    for tick, label in zip(ax.get_yticks(), ax.get_yticklabels()):
        if label.get_text()[0] not in '<>': assert float(label.get_text()) == tick/4 - 10

def test_plot_stats_draws_a_line_a_layer(rec):
    fig = rec.plot_stats()
    for ax, name in zip(fig.axes, ('mean', 'std', 'near_zero')):
        lines = [l for l in ax.lines if len(l.get_xdata()) == 42]
        np.testing.assert_allclose(np.stack([l.get_ydata() for l in lines], 1), getattr(rec.train, name))
    assert [t.get_text() for t in fig.axes[2].get_legend().get_texts()] == [f"{n}  {rec.info[n]['type']}"
                                                                            for n in rec.layers]
    _, axs = plt.subplots(1, 2)
    assert rec[0].plot_stats(('min', 'max'), axs=axs) is axs
    with pytest.raises(ValueError, match='2 axes for 3 statistics'): rec.plot_stats(axs=axs)

def test_the_loss_is_drawn_above_on_the_same_step_axis(rec):
    loss = rec.train.run['loss'].mean[:, 0]
    def is_loss(ax, values, lim):
        np.testing.assert_allclose(ax.lines[0].get_ydata(), values)
        assert ax.get_xlim() == lim
    fig = rec.color_dim(run=True)
    above, below = fig.axes[:3], fig.axes[3:12]
    fig.canvas.draw()
    for i, ax in enumerate(below):
        is_loss(above[i % 3], loss, (0, 42))
        assert ax.get_xlim() == (0, 42)
        np.testing.assert_allclose(ax.get_position().intervalx, above[i % 3].get_position().intervalx)
        assert ax.get_position().y1 < above[i % 3].get_position().y0
    assert [a.get_ylabel() for a in above] == ['loss', '', '']
    np.testing.assert_allclose(mesh(below[8]), mesh(rec.color_dim().axes[8]))  # the layers stay as they are
    fig = rec.plot_stats(run=True, steps=(14, 27))
    fig.canvas.draw()
    for above, ax in zip(fig.axes[:3], fig.axes[3:6]):
        is_loss(above, loss[14:28], (14, 28))
        assert ax.get_xlim() == (14, 28)
        np.testing.assert_allclose(ax.get_position().intervalx, above.get_position().intervalx)

def test_the_loss_is_drawn_above_many_small_panels(rec):
    many = rec.replace(rows=rec.rows[:, [0]*13], layers=[f'{i}.0' for i in range(13)], info={})
    fig = many.color_dim(run=True, ylim='auto', share=True)
    above, below = fig.axes[:5], fig.axes[5:18]
    for i, ax in enumerate(below):
        np.testing.assert_allclose(above[i % 5].lines[0].get_ydata(), rec.train.run['loss'].mean[:, 0])
        np.testing.assert_allclose(ax.get_position().intervalx, above[i % 5].get_position().intervalx)
        assert ax.get_xlim() == above[i % 5].get_xlim() and ax.get_position().y1 < above[i % 5].get_position().y0

def test_no_loss_to_draw_is_said(rec):
    for wrong in (rec.replace(run=None), rec.replace(run=rec.run['lr'])):
        for draw in (wrong.color_dim, wrong.plot_stats):
            with pytest.raises(ValueError, match='was not recorded with these activations: ActStats records it'):
                draw(run=True)
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match='ax= has no place for it'): rec[0].color_dim(run=True, ax=ax)
    with pytest.raises(ValueError, match='axs= has no place for it'): rec[0].plot_stats('std', run=True, axs=[ax])

def test_epochs_and_fits_are_marked(rec):
    ax = rec[0].color_dim().axes[0]
    marks = {(l.get_xdata()[0], l.get_linestyle()) for l in ax.lines[1:]}
    assert marks == {(14, ':'), (28, ':'), (28, '-')}

# zoom, colours, what is not there

def made_up(values, what='activations', bins=Bins(80, -10, 10), epoch=5, steps=12):  # noqa: B008, bins never change
    "A record; `values`: name → function of the step"
    ring = Ring(steps, len(values), bins)
    for step in range(steps):
        rows = [Summary.of(f(step), bins).rows if f(step) is not None else Summary.empty(bins=bins).rows
                for f in values.values()]
        ring.push(torch.stack(rows), step, epoch=step//epoch)
    return Record(*ring.read(), list(values), bins, what)

@pytest.fixture(scope='module')
def some():
    torch.manual_seed(0)
    return made_up({'conv': lambda t: torch.randn(500)*2, 'relu': lambda t: torch.randn(500).relu(),
                    'idle': lambda t: None})

def in_sight(ax, rec):
    "Values at the lower and upper end of the axis"
    return np.interp(ax.get_ylim(), np.arange(rec.bins.n + 1), rec.edges)

def test_auto_fits_the_occupied_bins(some):
    low, high = in_sight(some.color_dim('relu', ylim='auto').axes[0], some)
    top = some['relu'].max.max()
    assert -1 < low <= 0 and top <= high <= top + 1
    low, high = in_sight(some.color_dim('relu').axes[0], some)
    assert (low, high) == (-10, 10)
    np.testing.assert_allclose(in_sight(some.color_dim('conv', ylim=(-2, 3)).axes[0], some), (-2, 3))
    np.testing.assert_allclose(np.array(some.ridge('conv', ylim=(-2, 3)).axes[0].get_xlim())/4 - 10, (-2, 3))
    pair = compare(some, some).color_dim('relu', ylim='auto').axes[:2]
    assert pair[0].get_ylim() == pair[1].get_ylim() and in_sight(pair[0], some)[0] > -1
    for wrong in ('near', (3, -2), 5):
        with pytest.raises(ValueError, match="must be 'auto', 'all' or a pair"): some.color_dim(ylim=wrong)

def test_weights_are_drawn_where_they_are():
    torch.manual_seed(0)
    rec = made_up({'0.weight': lambda t: torch.randn(4000)*.05}, 'weights', Bins.symlog())
    ax = rec.color_dim().axes[0]
    drawn = mesh(ax).reshape(-1, 12)
    assert len(drawn) < 30 and rec.bins.n == 97  # octaves up to the largest value, those near zero in one band
    total = np.expm1(drawn).sum(0)
    np.testing.assert_allclose(total, rec.count[:, 0])  # nothing is lost
    assert len(mesh(rec.color_dim(ylim='all').axes[0]).reshape(-1, 12)) == 97
    assert [a.get_title() for a in rec.plot_stats().axes] == ['mean', 'standard deviation']  # none is near zero
    zeros = made_up({'0.bias': lambda t: torch.zeros(9)}, 'weights', Bins.symlog())
    assert [a.get_title() for a in zeros.plot_stats().axes][-1] == 'near-zero fraction'

def test_shares_have_one_scale_and_one_bar(some):
    fig = some.color_dim(share=True)
    panels = [a for a in fig.axes if a.get_title()]
    bars = [a for a in fig.axes if 'share of the activations' in a.get_ylabel()]
    assert len(bars) == 1 and len({a.collections[0].norm.vmax for a in panels if a.collections}) == 1
    np.testing.assert_allclose(mesh(panels[1]).reshape(80, 12), some['relu'].hist[:, 0].T/500)
    own = [a for a in some.color_dim().axes if a.get_label() == '<colorbar>']
    assert len(own) == 2  # a bar for each of the layers that ran

def test_a_layer_that_never_ran_says_so(some):
    for fig in (some.color_dim(), some.color_dim(share=True), compare(some, some).color_dim()):
        fig.canvas.draw()
        said = [t.get_text() for a in fig.axes for t in a.texts]
        assert 'never ran' in said
        assert not [a for a in fig.axes if any('e-09' in t.get_text() for t in a.get_yticklabels())]
    assert some.color_dim('idle').axes[0].texts[0].get_text() == 'never ran'

@pytest.mark.parametrize('epochs, said, lines', [(1, '', 0), (3, 'dotted: an epoch begins', 2),
                                                 (60, 'dotted: every 2nd epoch begins', 29)])
def test_what_is_said_of_epochs_is_drawn(epochs, said, lines):
    rec = made_up({'a': lambda t: torch.ones(2)*t/60}, epoch=60//epochs, steps=60)
    fig = rec.color_dim(mean=False)
    assert len(fig.axes[0].lines) == lines and said in fig.get_supxlabel()
    assert ('dotted' in fig.get_supxlabel()) == bool(said)
    compared = compare(rec, rec).color_dim().get_supxlabel()
    assert said in compared and ('dotted' in compared) == bool(said)

def test_the_usual_ratio_is_written_once():
    torch.manual_seed(0)
    rec = made_up({'0.weight': lambda t: torch.randn(200)}, 'weights', Bins.symlog())
    fig = plot_update_ratio(rec, made_up({'0.weight': lambda t: torch.randn(200)/1e3}, 'updates', Bins.symlog()))
    assert '-3, as usual' in fig.axes[0].get_title() and not fig.axes[0].texts
