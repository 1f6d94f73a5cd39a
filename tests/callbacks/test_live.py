"""The live picture: when it is drawn, where it goes, and what it leaves alone."""
import threading

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from fastai_actstats.all import ActStats, LiveStats
from fastai_actstats.callbacks import live
from fastai_actstats.plots.live import spread


class Clock:
    "A clock that batches and pictures move on"
    def __init__(self): self.now, self.pictures = 0., []
    def perf_counter(self): return self.now

@pytest.fixture
def clock(monkeypatch):
    c = Clock()
    monkeypatch.setattr(live, 'time', c)
    def draw(rec, most):
        assert threading.current_thread() is threading.main_thread()
        c.pictures.append(c.now)
        c.now += c.cost
    monkeypatch.setattr(live, 'live_figure', draw)
    monkeypatch.setattr(live, 'png', lambda fig: b'')
    return c

def fit(learner, clock, cost, batch, epochs=5, **kwargs):
    from fastai.basics import Callback
    class Slow(Callback):
        def after_pred(self): clock.now += batch
    clock.cost = cost
    learn = learner([ActStats(), LiveStats(**kwargs), Slow()])
    learn.fit(epochs, 1e-3)
    return learn.live_stats

@pytest.mark.parametrize('cost, batch', [(.3, 2.), (1., 3.), (.05, .4)])
def test_pictures_keep_to_their_share_of_the_time(learner, clock, tmp_path, cost, batch):
    fit(learner, clock, cost, batch, path=tmp_path/'a.png')
    during = clock.pictures[:-1]  # the last one is drawn when training is over
    assert len(during) >= 2
    for n, t in enumerate(during[1:], 2): assert n*cost <= .02*t + 1e-9
    assert min(b - a for a, b in zip(during, during[1:])) >= 3

def test_a_cheap_picture_still_waits(learner, clock, tmp_path):
    fit(learner, clock, 1e-6, .5, path=tmp_path/'a.png', every=4.)
    assert all(b - a >= 4 for a, b in zip(clock.pictures[:-2], clock.pictures[1:-1]))

def test_the_file_is_whole_and_alone(learner, tmp_path):
    figures = plt.get_fignums()
    learn = learner([ActStats(), LiveStats(tmp_path/'new'/'a.png', every=0, budget=1.)])
    learn.live_stats.cost = 0.  # the first picture comes with the first batch
    learn.fit(1, 1e-3)
    assert [f.name for f in (tmp_path/'new').iterdir()] == ['a.png'] and learn.live_stats.pictures >= 2
    with Image.open(tmp_path/'new'/'a.png') as image: image.verify()
    assert plt.get_fignums() == figures
    drawn = learn.live_stats.pictures
    learn.validate()
    learn.get_preds()
    assert learn.live_stats.pictures == drawn

def test_a_notebook_redraws_in_place(learner, monkeypatch):
    shown = []
    class Handle:
        def update(self, image): shown.append('update')
    monkeypatch.setattr('IPython.display.display', lambda image, display_id: shown.append('display') or Handle())
    learn = learner([ActStats(), LiveStats(every=0, budget=1., notebook=True)])
    learn.live_stats.cost = 0.
    learn.fit(1, 1e-3)
    assert shown[0] == 'display' and set(shown[1:]) == {'update'} and learn.live_stats.path is None

def test_a_picture_that_fails_does_not_end_the_fit(learner, monkeypatch, tmp_path):
    def fail(*args): raise OSError('disk full')
    monkeypatch.setattr(live, 'png', fail)
    learn = learner([ActStats(), LiveStats(tmp_path/'a.png', every=0, budget=1.)])
    with pytest.warns(UserWarning, match='draws no more: disk full') as found: learn.fit(1, 1e-3)
    assert len(found) == 1 and len(learn.act_stats.record) == len(learn.dls.train)
    monkeypatch.undo()
    learn.fit(1, 1e-3)
    assert (tmp_path/'a.png').is_file()  # the next fit tries again

def test_what_is_shown_must_be_there(learner):
    with pytest.raises(ValueError, match="source='act_stats' is none of the learner's callbacks: train_eval"):
        learner(LiveStats(source='act_stats')).fit(1)
    with pytest.raises(ValueError, match='callbacks records activations: train_eval'): learner(LiveStats()).fit(1)
    with pytest.raises(ValueError, match='budget=0 must be a share'): LiveStats(budget=0)

def test_layers_are_spread_over_the_depth():
    assert spread(100, 3) == [0, 50, 99] and spread(2, 6) == [0, 1]
