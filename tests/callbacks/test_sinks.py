"""Sinks: MLflow and trackio as their own readers read them back, one of the user's own, the names, and what fails."""
import json
import random
import re
import warnings

import numpy as np
import pytest
import torch
from fastai.basics import Callback
from helpers import ROOT
from torch import nn

from fastai_actstats.all import (
    ActStats,
    DeadUnits,
    GradStats,
    MlflowStats,
    Sink,
    StatsLogger,
    TrackioStats,
    WeightStats,
)


@pytest.fixture(scope='module')
def mlflow_files(tmp_path_factory):
    "A database in a file, as MLflow makes one by itself"
    folder = tmp_path_factory.mktemp('mlflow')
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        for name in ('MLFLOW_DISABLE_TELEMETRY', 'DO_NOT_TRACK'): patch.setenv(name, 'true')
        warnings.simplefilter('ignore')  # sqlalchemy's, which MLflow calls in an old way
        import mlflow
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f'sqlite:///{folder}/mlflow.db')
        mlflow.create_experiment('test', (folder/'artifacts').as_uri())
        yield mlflow
        while mlflow.active_run(): mlflow.end_run()
        mlflow.set_tracking_uri(before)

@pytest.fixture
def mlflow_run(mlflow_files):
    mlflow_files.set_experiment('test')
    with mlflow_files.start_run() as run: yield run.info.run_id

@pytest.fixture
def trackio_run(tmp_path, monkeypatch):
    "A run in a folder of its own; called, it ends the run and gives the rows that were logged"
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    import trackio
    from trackio import sqlite_storage, utils
    for module in (trackio, utils, sqlite_storage): monkeypatch.setattr(module, 'TRACKIO_DIR', tmp_path)
    run = trackio.init(project='test', embed=False, auto_log_cpu=False, auto_log_gpu=False)
    def close():
        trackio.finish()
        return sqlite_storage.SQLiteStorage.get_logs('test', run.name)
    yield close
    if trackio.context_vars.current_run.get() is not None: trackio.finish()

def inner(counts, edges, rec):
    "The counts between the record's edges"
    return [c for c, high in zip(counts, edges[1:]) if rec.edges[0] < high <= rec.edges[-1]]

@pytest.mark.slow
def test_mlflow_has_what_was_recorded(learner, mlflow_files, mlflow_run):
    learn = learner([ActStats(range=(-.5, .5), phase='both'), WeightStats(), DeadUnits(), MlflowStats()])
    learn.fit(2, 1e-2)
    client, rec = mlflow_files.MlflowClient(), learn.act_stats.record
    for layer in rec.layers[:2]:
        for stat in ('mean', 'std', 'near_zero'):
            history = client.get_metric_history(mlflow_run, f'activations/{layer}/{stat}')
            steps, values = zip(*sorted((m.step, m.value) for m in history))
            assert steps == tuple(range(28))
            np.testing.assert_allclose(values, getattr(rec.train[layer], stat)[:, 0])
    names = set(client.get_run(mlflow_run).data.metrics)
    assert {'valid/activations/0.0/std', 'weights/0.0.weight/mean', 'weight gradients/0.0.weight/mean',
            'updates/0.0.weight/std'} <= names and any(n.startswith('channels/') for n in names)
    files = sorted(f.path for f in client.list_artifacts(mlflow_run, 'actstats'))
    assert files == ['actstats/histograms-00000013.json', 'actstats/histograms-00000027.json']
    held = mlflow_files.artifacts.load_dict(f'{client.get_run(mlflow_run).info.artifact_uri}/{files[0]}')
    one, h = rec.train['0.0'].epoch(0).merged(), held['activations/0.0']
    assert 'valid/activations/0.0' in held and sum(h['counts']) == one.count[0, 0]
    assert inner(h['counts'], h['edges'], rec) == one.hist[0, 0].tolist()
    assert (h['mean'], h['min'], h['max']) == (one.mean[0, 0], one.min[0, 0], one.max[0, 0])

def test_trackio_has_what_was_recorded(learner, trackio_run):
    learn = learner([ActStats(range=(-.5, .5)), GradStats(), TrackioStats()])
    learn.fit(2, 1e-2)
    rows, rec = trackio_run(), learn.act_stats.record
    for name, of in (('activations', rec), ('gradients', learn.grad_stats.record)):
        steps, values = zip(*sorted((r['step'], r[f'{name}/2.0/mean']) for r in rows if f'{name}/2.0/mean' in r))
        assert steps == tuple(range(28))
        np.testing.assert_allclose(values, of['2.0'].mean[:, 0])
    histograms = {r['step']: r['activations/2.0'] for r in rows if 'activations/2.0' in r}
    assert sorted(histograms) == [13, 27] and histograms[13]['_type'] == 'trackio.histogram'
    one, h = rec['2.0'].epoch(0).merged(), histograms[13]
    assert sum(h['values']) == one.count[0, 0] and len(h['bins']) == len(h['values']) + 1
    assert inner(h['values'], h['bins'], rec) == one.hist[0, 0].tolist()

@pytest.mark.slow
def test_they_want_a_run(learner, mlflow_files):
    for logger, call in ((MlflowStats, 'mlflow.start_run'), (TrackioStats, 'trackio.init')):
        learn = learner([ActStats(), logger()])
        with pytest.raises(ValueError, match=f'no run to log to: call {call}'): learn.fit(1)
        assert not len(learn.act_stats.record)

@pytest.mark.slow
def test_one_that_fails_is_left_out_and_training_goes_on(learner, trackio_run, mlflow_run, monkeypatch):
    import mlflow
    import trackio
    asked = []
    def fail(*args, **kwargs):
        asked.append(1)
        raise ConnectionError('no way there')
    monkeypatch.setattr(mlflow.MlflowClient, 'log_batch', fail)
    monkeypatch.setattr(trackio, 'log', fail)
    learn = learner([ActStats(), MlflowStats(), TrackioStats()])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        learn.fit(2, 1e-3)
    said = [str(w.message) for w in found if 'could not log' in str(w.message)]
    assert sorted(said) == [f'{name} could not log: no way there' for name in ('MlflowStats', 'TrackioStats')]
    assert len(learn.act_stats.record) == 28 and len(asked) == 2

@pytest.mark.slow
def test_they_change_no_bit_of_training(learner, trackio_run, mlflow_run):
    def weights(cbs):
        random.seed(0)
        learn = learner(cbs)
        learn.fit_one_cycle(2, 1e-2)
        state = list(learn.model.state_dict().values())
        return state, learn.recorder.losses, torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    plain, full = weights([]), weights([ActStats(), MlflowStats(), TrackioStats()])
    assert all(torch.equal(a, b) for a, b in zip(plain[0], full[0])) and torch.equal(plain[2], full[2])
    assert plain[1] == full[1] and plain[3:] == full[3:]

# what anybody's sink is given

class Kept(Sink):
    def __init__(self): self.got, self.said = {}, []
    def open(self, learn): self.said.append('open')
    def scalars(self, step, values):
        for name, value in values.items(): self.got.setdefault(name, []).append((step, value))
    def histogram(self, step, name, histogram): self.got.setdefault(name, []).append((step, histogram))
    def flush(self): self.said.append('flush')
    def close(self): self.said.append('close')

def test_a_sink_of_ones_own(learner):
    sink = Kept()
    learn = learner([ActStats(), StatsLogger(sink, points=3)])
    learn.fit(2, 1e-2)
    rec = learn.act_stats.record
    assert sink.said == ['close', 'open', 'flush', 'flush', 'flush', 'close']
    assert [step for step, _ in sink.got['activations/0.0/std']] == [4, 9, 13, 18, 23, 27]
    (_, first), (_, second) = sink.got['activations/0.0']
    assert first.counts.sum() == rec['0.0'].epoch(0).count.sum() and (np.diff(second.edges) > 0).all()
    with pytest.raises(TypeError, match='must be a `Sink`'): StatsLogger('run.jsonl')
    class Scalars(Sink):
        def scalars(self, step, values): pass
    learner([ActStats(), StatsLogger(Scalars())]).fit(1, 1e-3)  # nothing else has to be there

def test_the_run_is_passed_on_as_fastai_recorded_it(learner):
    class SeenLosses(Callback):
        seen = []
        def after_loss(self):
            if self.training: self.seen.append(self.learn.loss.item())
    sink = Kept()
    learn = learner([ActStats(), StatsLogger(sink), SeenLosses()])
    learn.fit_one_cycle(2, 1e-2)
    steps, losses = zip(*sink.got['run/loss/mean'])
    assert steps == tuple(range(28))
    np.testing.assert_allclose(losses, SeenLosses.seen, rtol=1e-6)
    np.testing.assert_allclose([v for _, v in sink.got['run/lr/mean']], learn.recorder.lrs, rtol=1e-6)
    assert {n for n in sink.got if n.startswith('run/')} == {f'run/{n}/mean' for n in ('loss', 'lr')} | {
        f'run/{n}/{stat}' for n in ('input', 'output', 'target') for stat in ('mean', 'std')}
    sink = Kept()
    learn.remove_cb(learn.stats_logger)
    learn.add_cb(StatsLogger(sink, points=2))
    learn.fit(1, 1e-2)
    (_, first), (_, second) = sink.got['run/loss/mean']  # of all three epochs: a new logger has passed nothing on
    np.testing.assert_allclose([first, second], np.mean(np.reshape(SeenLosses.seen, (2, 21)), 1), rtol=1e-5)

def test_the_table_of_names_is_true(learner):
    cells = json.loads((ROOT/'nbs'/'callbacks'/'22_loggers.ipynb').read_text())['cells']
    text = next(''.join(c['source']) for c in cells if c['id'] == 'base-text')
    rows = [line.split(' | ')[0] for line in text.partition('Where these')[0].splitlines() if line.startswith('| `')]
    names = set()
    for first, *more in (re.findall('`([^`]+)`', row) for row in rows):
        names |= {first, *(first.rpartition('/')[0] + n if n.startswith('/') else n for n in more)}
    sink = Kept()
    learn = learner([ActStats(phase='both'), GradStats(), WeightStats(), DeadUnits(),
                     ActStats(nn.ReLU, name='relu_stats'), StatsLogger(sink)])
    learn.fit(1, 1e-2)
    assert len(names) > 12 and names <= set(sink.got), names - set(sink.got)
    def kinds(names): return {re.sub(r'\d.*', '', name) for name in names}
    assert kinds(sink.got) == kinds(names)
