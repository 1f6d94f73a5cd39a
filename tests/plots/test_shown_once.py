"""A notebook shows each picture once, with a `;` and without; a script shows none."""
import subprocess
import sys

import nbformat
import pytest
from helpers import ROOT
from nbclient import NotebookClient

START = """
import sys, warnings
warnings.simplefilter('ignore')
import matplotlib.pyplot as plt, numpy as np, torch
from torch import nn
from fastai_actstats.all import *
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.plots.lines import plot_update_ratio

def made(scale, what='activations', bins=Bins(20, -3, 3)):
    ring = Ring(16, 2, bins)
    for step in range(8):
        ring.push(torch.stack([Summary.of(torch.randn(40)*scale, bins).rows for _ in range(2)]), step, epoch=step//4)
    return Record(*ring.read(), ['h.0.fc', 'h.1.fc'], bins, what)

rec, other = made(1.), made(2.)
weights, updates = made(.1, 'weights', Bins.symlog()), made(.01, 'updates', Bins.symlog())
both = compare(rec, other)
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
x = torch.randn(1, 3, 12, 12)
groups = np.arange(40) % 4
sample = Sample({'0': np.random.randn(40, 6).astype('f')}, np.arange(40), np.zeros(40, int), groups, None, {})
"""

PICTURES = ['rec.show()', 'rec.color_dim()', 'rec.color_dim(0, share=True)', 'rec.plot_stats()', 'rec.heatmap()',
            'rec.ridge()', 'rec.first_last()', 'rec.plot_depth()', 'plot_update_ratio(weights, updates)',
            'both.color_dim()', 'both.plot_stats()', 'both.difference()', 'show_feature_maps(model, x, "0")',
            'show_filters(model, "0")', 'sample.heatmap()', 'embed(sample).plot()']

HABITS = {'fig = rec.plot_stats()': 1, 'fig': 1, 'fig;': 0,  # it was shown in its own cell
          'import io; fig = rec.heatmap(); fig.savefig(io.BytesIO()); fig': 1,
          'for r in (rec, other): display(r.plot_stats())': 2,
          'a = rec.plot_stats(); b = rec.heatmap()': 2, 'rec.plot_stats(); plt.show()': 1,
          'fig = rec.plot_stats(); plt.close(fig)': 0, 'ax = plt.figure().subplots(); rec.color_dim(0, ax=ax)': 1,
          'plt.ion(); rec.plot_stats()': 1, 'plt.ion(); rec.plot_stats();': 1, 'plt.ioff(); rec.plot_stats()': 1,
          'plt.ion(); %config InlineBackend.close_figures = False': 0, 'rec.heatmap()': 1, 'rec.heatmap(); ': 1}

@pytest.mark.slow
def test_a_notebook_shows_each_picture_once(tmp_path):
    cells = [(code, 1) for picture in PICTURES for code in (picture, picture + ';')]
    cells += [(code.replace('; %', '\n%'), n) for code, n in HABITS.items()]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code, _ in [(START, 0), *cells]])
    NotebookClient(book, timeout=300, kernel_name='python3', resources=dict(metadata=dict(path=str(ROOT)))).execute()
    shown = [sum('image/png' in o.get('data', {}) for o in cell.outputs) for cell in book.cells[1:]]
    assert list(zip(cells, shown)) == [((code, n), n) for code, n in cells]

@pytest.mark.slow
def test_a_script_shows_none_and_keeps_the_figure():
    code = START + """
shown = []
plt.show = lambda *args, **kwargs: shown.append(args)
for ion in (False, True):
    plt.interactive(ion)
    fig = rec.color_dim()
    fig.savefig(sys.argv[1], format='png')
    assert plt.fignum_exists(fig.number) and isinstance(fig, plt.Figure)
    assert fig._repr_mimebundle_() == {} and plt.fignum_exists(fig.number)  # a window stays as it is
assert not shown
"""
    done = subprocess.run([sys.executable, '-c', 'import matplotlib; matplotlib.use("agg")\n' + code, '/dev/null'],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stderr
