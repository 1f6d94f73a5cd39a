"""What all pictures share: the grid of panels, and who gets which picture from where."""
import subprocess
import sys

import matplotlib.pyplot as plt
import pytest

from fastai_actstats.analysis.compare import Comparison
from fastai_actstats.core.channel_record import ChannelRecord
from fastai_actstats.core.record import Record
from fastai_actstats.core.samples import Sample
from fastai_actstats.plots import axes, channels, comparison, depth, distributions, glance, heat, steps  # noqa: F401


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

def place(ax):
    "Row and column"
    spec = ax.get_subplotspec()
    return spec.rowspan.start, spec.colspan.start

def numbered(ax): return ax.xaxis.get_tick_params()['labelbottom']

def test_panels_follow_each_other_along_the_rows():
    fig, axs = axes.panels(5, 3, (2, 1), xlabel='step', ylabel='unit')
    assert [[place(ax) for ax in group] for group in axs] == [[(0, 0)], [(0, 1)], [(0, 2)], [(1, 0)], [(1, 1)]]
    assert [place(ax) for ax in fig.axes if not ax.axison] == [(1, 2)]
    assert [numbered(ax) for [ax] in axs] == [False, False, True, True, True]  # the third has nothing below it
    assert fig.get_size_inches().tolist() == [6, 2.5] and (fig.get_supxlabel(), fig.get_supylabel()) == ('step', 'unit')

def test_or_downwards_in_blocks_of_several():
    fig, axs = axes.panels(5, 2, (2, 1), each=2, down=True, margin=(1, 1))
    rows = [[(0, 0), (0, 1)], [(1, 0), (1, 1)], [(2, 0), (2, 1)], [(0, 2), (0, 3)], [(1, 2), (1, 3)]]
    assert [[place(ax) for ax in group] for group in axs] == rows
    assert [place(ax) for ax in fig.axes if not ax.axison] == [(2, 2), (2, 3)]
    assert [[numbered(ax) for ax in group] for group in axs] == [[False]*2, [False]*2, [True]*2, [False]*2, [True]*2]
    assert fig.get_size_inches().tolist() == [9, 4]

def test_a_grid_is_as_large_as_a_page():
    fig, axs = axes.panels(100, 10, (4.4, 2.6))
    assert len(axs) == 100 and fig.get_size_inches().tolist() == [26, 22.5]
    assert axes.panels(3, 2, (1, 1), figsize=(7, 5))[0].get_size_inches().tolist() == [7, 5]

@pytest.mark.parametrize('owner, names', [(Record, (
    'color_dim', 'plot_stats', 'heatmap', 'ridge', 'first_last', 'plot_depth', 'show')),
                                          (ChannelRecord, ('plot', 'channel_map', 'plot_dead', 'plot_channels')),
                                          (Sample, ('heatmap',)),
                                          (Comparison, ('color_dim', 'plot_stats', 'difference'))])
def test_pictures_are_methods_that_say_what_they_draw(owner, names):
    from fastai_actstats.features import embedding  # noqa: F401, gives samples theirs
    for name in names:
        method = getattr(owner, name)
        assert method.__qualname__ == f'{owner.__name__}.{name}' and method.__doc__
        assert 'plots' in method.__module__ or 'features' in method.__module__

def python(code): return subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)

def test_a_comparison_is_numbers_only():
    done = python("import sys; from fastai_actstats.analysis.compare import Comparison, compare\n"
                  "print(hasattr(Comparison, 'color_dim'), {'matplotlib', 'seaborn', 'fastai'} & {*sys.modules})")
    assert done.stdout.split('\n')[0] == 'False set()', done.stderr

def test_seaborn_waits_for_a_picture():
    "and it is there when live pictures begin, whose time is measured"
    done = python("import sys; from fastai_actstats.all import *\n"
                  "from fastai_actstats.plots.live import get_ready\n"
                  "from fastai_actstats.analysis.compare import Comparison\n"
                  "print('seaborn' in sys.modules, hasattr(Comparison, 'color_dim'))\n"
                  "get_ready(); print('seaborn' in sys.modules)")
    assert done.stdout.split() == ['False', 'True', 'True'], done.stderr
