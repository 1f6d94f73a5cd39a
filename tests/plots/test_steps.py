"""What the pictures draw, read back from the figures."""
import matplotlib.pyplot as plt
import numpy as np
import pytest


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

def test_epochs_and_fits_are_marked(rec):
    ax = rec[0].color_dim().axes[0]
    marks = {(l.get_xdata()[0], l.get_linestyle()) for l in ax.lines[1:]}
    assert marks == {(14, ':'), (28, ':'), (28, '-')}
