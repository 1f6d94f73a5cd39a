"""Pictures do not change unseen: each is compared with one that was looked at, and what is drawn with the record.

After a change that is wanted: `ACTSTATS_BASELINE=1 pytest tests/plots/test_pictures.py`, and look at
`tests/plots/baseline/`."""
import os
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.testing.compare import compare_images
from PIL import Image

from fastai_actstats.all import Bins, Record, compare
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.plots import distributions as pictures
from fastai_actstats.plots.heat import heat_data

BASELINE = Path(__file__).parent/'baseline'

BINS = Bins(40, -6, 6)

def run(layers=('0.0', '0.2', '1.0'), steps=60, bins=BINS, grows=1., epoch=15, capacity=2000, n=300):
    ring, rng = Ring(capacity, len(layers), bins), np.random.default_rng(0)
    for step in range(steps):
        x = rng.normal(size=(len(layers), n))*(1 + grows*step/steps*np.arange(len(layers))[:, None])
        x[1::3] = np.maximum(x[1::3], 0)
        ring.push(torch.stack([Summary.of(torch.from_numpy(v), bins).rows for v in x]), step, epoch=step//epoch,
                  fit=step//(2*epoch))
    info = {name: dict(type=('Conv2d', 'ReLU', 'Linear')[i % 3], shape=(8, 4)) for i, name in enumerate(layers)}
    return Record(*ring.read(), list(layers), bins, info=info)

@pytest.fixture(scope='module')
def rec(): return run()

@pytest.fixture(scope='module')
def both(rec): return compare(grows=rec, steady=run(steps=45, grows=0.))

@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {'backend': 'agg'}): yield
    plt.close('all')

PICTURES = {
    'color_dim': lambda rec, both: rec.color_dim(),
    'color_dim_one': lambda rec, both: rec['0.2'].color_dim(ax=plt.figure(figsize=(5, 3)).subplots()).figure,
    'plot_stats': lambda rec, both: rec.plot_stats(),
    'heatmap': lambda rec, both: rec.heatmap('std'),
    'ridge': lambda rec, both: rec.ridge('1.0'),
    'ridge_symlog': lambda rec, both: run(bins=Bins.symlog(2.**-12, 2.**4)).ridge('0.2'),
    'first_last': lambda rec, both: rec.first_last(),
    'compare_color_dim': lambda rec, both: both.color_dim(),
    'compare_plot_stats': lambda rec, both: both.plot_stats(),
    'difference': lambda rec, both: both.difference(),
}

def differs(file, tmp_path):
    "None, or what is wrong with the picture in `file`"
    old = BASELINE/file.name
    if not old.exists(): return f"{old} is missing"
    drawn, made = (re.match(r'Matplotlib version(\d+\.\d+)', Image.open(f).text['Software'])[1] for f in (file, old))
    if drawn != made:
        pytest.skip(f"drawn with matplotlib {drawn}, to be compared with {made}: letters have other sizes there")
    expected = tmp_path/f'expected-{file.name}'
    expected.write_bytes(old.read_bytes())
    return compare_images(str(expected), str(file), tol=2)

@pytest.mark.parametrize('name', PICTURES)
def test_picture_is_as_it_was_looked_at(name, rec, both, tmp_path):
    file = tmp_path/f'{name}.png'
    PICTURES[name](rec, both).savefig(file, dpi=45)
    if os.environ.get('ACTSTATS_BASELINE'):
        BASELINE.mkdir(exist_ok=True)
        (BASELINE/file.name).write_bytes(file.read_bytes())
    wrong = differs(file, tmp_path)
    assert not wrong, wrong

def test_a_changed_picture_is_caught(rec, both, tmp_path):
    for name, changed in (('heatmap', lambda: rec.heatmap('mean')), ('color_dim', lambda: rec.color_dim(mean=False)),
                          ('ridge', lambda: rec.ridge('0.2')), ('difference', lambda: both.difference('w1'))):
        changed().savefig(tmp_path/f'{name}.png', dpi=45)
        assert differs(tmp_path/f'{name}.png', tmp_path), name

# what is drawn
def test_heatmap_draws_the_statistic(rec):
    fig = rec.heatmap('near_zero')
    drawn = fig.axes[0].collections[0].get_array().reshape(3, 60)
    np.testing.assert_allclose(drawn, rec.near_zero.T)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == ['0.0  Conv2d', '0.2  ReLU', '1.0  Linear']
    np.testing.assert_array_equal(heat_data(rec, 'std'), rec.std)
    np.testing.assert_array_equal(heat_data(rec, lambda r: r.quantile(.5)).loc[7], rec.quantile(.5)[7])
    assert heat_data(rec).index.name == 'step' and heat_data(rec).columns.tolist() == rec.layers
    with pytest.raises(ValueError, match='has shape'): rec.heatmap('hist')

def test_ridge_draws_the_shares_of_each_epoch(rec):
    data = pictures.ridge_data(rec, '0.2')
    assert data.index.tolist() == [f'epoch {e}' for e in range(4)]
    for e in range(4):
        part = rec['0.2'].epoch(e)
        np.testing.assert_allclose(data.iloc[e], part.hist.sum(0)[0]/part.count.sum())
    fig = rec.ridge('0.2')
    curves = [p.get_data().values for p in fig.axes[0].patches if p.get_fill()]
    height = np.sqrt(data.to_numpy())
    for row, curve in enumerate(curves):
        np.testing.assert_allclose(curve + row, height[row]/height.max()*1.5, atol=1e-12)
    one_epoch = pictures.ridge_data(run(epoch=999), 0, most=5)
    assert one_epoch.index.tolist() == [f'step {s}' for s in (0, 12, 24, 36, 48)]
    many = pictures.ridge_data(run(epoch=2), 0)
    assert len(many) == 12 and many.index[0] == 'epoch 0' and many.index[-1] == 'epoch 29'

def test_first_last_draws_the_first_epoch_and_the_last(rec):
    first, last = pictures.first_last_data(rec)
    for data, e in ((first, 0), (last, 3)):
        part = rec.epoch(e)
        np.testing.assert_allclose(data, part.hist.sum(0)/part.count.sum(0)[:, None])
    assert [t.get_text() for t in rec.first_last().axes[0].get_legend().texts] == ['first epoch', 'last epoch']

def test_axes_can_be_given_and_steps_chosen(rec):
    fig, axs = plt.subplots(1, 3)
    assert rec.heatmap(ax=axs[0], steps=(10, 19)) is axs[0] and rec.ridge(ax=axs[1]) is axs[1]
    assert rec.first_last(ax=axs[2]) is axs[2]
    assert axs[0].collections[0].get_array().size == 30

def test_what_never_ran_or_never_was_is_drawn_too():
    rec = run(steps=20)
    rows = rec.summary.rows.clone()
    rows[5:, 1] = Summary.empty(bins=rec.bins).rows
    gone = rec.like(rows, rec.columns)
    for fig in (gone.heatmap(), gone.ridge('0.2'), gone.first_last(), rec.part([0]).heatmap(),
                rec.part([0]).ridge(0)):
        fig.canvas.draw()
    empty = rec.part(slice(0, 0))
    for picture in (empty.heatmap, empty.ridge, empty.first_last):
        with pytest.raises(ValueError, match='nothing to draw'): picture()

@pytest.mark.slow
def test_a_hundred_layers_and_fifty_thousand_steps():
    deep = run([f'blocks.{i}.attn' for i in range(100)], steps=8, n=20)
    long = run(steps=200, capacity=64)
    long.columns['first'] *= 250; long.columns['last'] = long.columns['last']*250 + 249
    for rec in (deep, long):
        for fig in (rec.heatmap(), rec.ridge(0), rec.first_last()):
            fig.canvas.draw()
            assert max(fig.get_size_inches()) <= 22
            for ax in fig.axes:
                boxes = [t.get_window_extent() for t in ax.get_yticklabels() if t.get_text()]
                assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:])), 'labels overlap'
    assert [t.get_text() for t in long.heatmap().axes[0].get_xticklabels()][-1] == '50000'

def test_pictures_of_formats_draw_what_the_tables_say():
    rec = run(bins=Bins.formats())
    fig = rec.plot_exponents('0.2', formats=('float16', 'bfloat16', 'float8_e5m2'))
    (mesh,) = fig.axes[0].collections
    low, high = rec.min[:, 1], rec.max[:, 1]
    top = np.floor(np.log2(np.maximum(np.abs(low), np.abs(high))))
    shares = np.ma.filled(mesh.get_array(), np.nan)
    exponents = np.arange(-149, 128)
    assert (exponents[[np.flatnonzero(column > 0)[-1] for column in shares.T]] == top).all()
    np.testing.assert_allclose(np.nansum(shares, 0), 1)
    assert [t.get_text() for t in fig.axes[0].texts][:2] == ['float16 largest', 'float16 smallest normal']
    ax = plt.figure().subplots()
    assert rec.plot_format('float8_e4m3fn', 'subnormal', ax=ax) is ax
    drawn = np.asarray(ax.collections[0].get_array()).reshape(len(rec.layers), len(rec))
    table = rec.fits('float8_e4m3fn', columns=True)
    np.testing.assert_allclose(drawn.T.ravel(), table.subnormal)
    with pytest.raises(ValueError, match="what='lots' must be"): rec.plot_format('float16', 'lots')
    with pytest.raises(ValueError, match="bins='formats'"): run().plot_exponents()
