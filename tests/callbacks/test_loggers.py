"""What the loggers wrote, read back with TensorBoard's own reader and from the file of an offline W&B run."""
import json
import struct
import time
import warnings

import numpy as np
import pytest
import torch

from fastai_actstats.all import ActStats, DeadUnits, GradStats, StatsLogger, TensorBoardStats, WandbStats, WeightStats
from fastai_actstats.callbacks.sinks import TensorBoardSink


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    return EventAccumulator(str(folder), size_guidance={'scalars': 0, 'histograms': 0}).Reload()

def read_wandb(path):
    "History rows of a run's file, None before its end is there: a log of blocks of 32 KiB, records in pieces or whole"
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, part, rows, ended = path.read_bytes(), 7, b'', [], False
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7: at += left; continue
        _, size, kind = struct.unpack('<IHB', data[at:at + 7])
        if not kind: break
        part += data[at + 7:at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            rec, part = Record.FromString(part), b''
            ended |= rec.HasField('exit')
            if not rec.HasField('history'): continue
            rows.append({})
            for i in rec.history.item:
                *outer, last = list(i.nested_key) or [i.key]
                at_key = rows[-1]
                for key in outer: at_key = at_key.setdefault(key, {})
                at_key[last] = json.loads(i.value_json)
    return rows if ended else None

@pytest.fixture
def wandb_run(tmp_path, monkeypatch):
    for name, value in (('WANDB_MODE', 'offline'), ('WANDB_DIR', str(tmp_path)), ('WANDB_SILENT', 'true')):
        monkeypatch.setenv(name, value)
    import wandb
    run = wandb.init(project='test', dir=tmp_path, mode='offline')  # said again: wandb reads the environment only once
    def close():
        run.finish()
        path = next(p for p in tmp_path.rglob('*.wandb') if not p.is_symlink() and 'latest' not in str(p))
        for _ in range(600):  # a process of its own writes it
            if (rows := read_wandb(path)) is not None: return rows
            time.sleep(.1)
        raise TimeoutError("the run's file has no end")
    yield close
    run.finish()

def test_tensorboard_reads_what_was_recorded(learner, tmp_path):
    learn = learner([ActStats(range=(-.5, .5), phase='both'), GradStats(), WeightStats(), DeadUnits(),
                     TensorBoardStats(tmp_path)])
    learn.fit(2, 1e-2)
    events, rec = read_events(tmp_path), learn.act_stats.record
    assert len(rec.train) == 28
    assert set(events.Tags()['histograms']) >= {'activations/0.0', 'valid/activations/0.0', 'gradients/0.0',
                                                'updates/0.0.weight'}
    for layer in rec.layers:
        for stat in ('mean', 'std', 'near_zero'):
            seen = events.Scalars(f'activations/{layer}/{stat}')
            assert [e.step for e in seen] == list(range(28))
            np.testing.assert_allclose([e.value for e in seen], getattr(rec.train[layer], stat)[:, 0], rtol=1e-6)
        epochs = events.Histograms(f'activations/{layer}')
        assert [e.step for e in epochs] == [13, 27]
        for i, e in enumerate(epochs):
            one, h = rec.train[layer].epoch(i).merged(), e.histogram_value
            x = np.array(h.bucket), np.array(h.bucket_limit)
            assert h.num == one.count[0, 0] == x[0].sum() and (np.diff(x[1]) > 0).all()
            inner = x[0][(x[1] > rec.edges[0]) & (x[1] <= rec.edges[-1])]
            assert inner.tolist() == one.hist[0, 0].tolist()
            assert (h.min, h.max) == (one.min[0, 0], one.max[0, 0])
            np.testing.assert_allclose([h.sum/h.num, h.sum_squares/h.num - (h.sum/h.num)**2],
                                       [one.mean[0, 0], one.std[0, 0]**2], rtol=1e-3)  # unbiased
    assert any(t.startswith('channels/') for t in events.Tags()['scalars'])

def test_it_logs_each_step_once_even_when_the_ring_is_full(learner, tmp_path):
    learn = learner([ActStats(capacity=8), TensorBoardStats(tmp_path, points=5)])
    learn.fit(3, 1e-3)
    steps = [e.step for e in read_events(tmp_path).Scalars('activations/0.0/mean')]
    assert steps == sorted(set(steps)) and len(steps) <= 15
    total = sum(e.histogram_value.num for e in read_events(tmp_path).Histograms('activations/0.0'))
    count = learn.act_stats.record['0.0'].count.sum()
    assert count <= total <= 1.2*count  # a column merged with one that was passed on before comes again

def test_it_writes_where_fastais_callback_writes(learner, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from fastai.callback.tensorboard import TensorBoardCallback
    learn = learner([ActStats(), TensorBoardCallback(tmp_path, trace_model=False, log_preds=False), TensorBoardStats()])
    learn.fit(2, 1e-3)
    events = read_events(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert {'train_loss', 'activations/0.0/mean'} <= set(events.Tags()['scalars'])

def test_reading_is_once_an_epoch(learner, tmp_path, monkeypatch):
    learn = learner([ActStats(), TensorBoardStats(tmp_path)])
    reads, recorder = [], type(learn.act_stats.accumulator)
    monkeypatch.setattr(recorder, '_read', lambda self, read=recorder._read: reads.append(self.step) or read(self))
    learn.fit(2, 1e-3)
    learn.validate()
    assert reads == [14, 28]

def test_wandb_has_what_was_recorded(learner, wandb_run):
    learn = learner([ActStats(range=(-.5, .5)), WandbStats()])
    learn.fit(2, 1e-2)
    rows, rec = wandb_run(), learn.act_stats.record
    seen = [(r['actstats/step'], r['activations/2.0/mean']) for r in rows if 'activations/2.0/mean' in r]
    assert [s for s, _ in seen] == list(range(28))
    np.testing.assert_allclose([v for _, v in seen], rec['2.0'].mean[:, 0])
    histograms = [r['activations/2.0'] for r in rows if 'activations/2.0' in r]
    assert len(histograms) == 2 and histograms[0]['_type'] == 'histogram'
    one = rec['2.0'].epoch(0).merged()
    assert sum(histograms[0]['values']) == one.count[0, 0] and set(one.hist[0, 0]) <= set(histograms[0]['values'])

def test_wandb_beside_fastais_callback(learner, wandb_run):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        from fastai.callback.wandb import WandbCallback
    learn = learner([ActStats(), WandbCallback(log_preds=False), WandbStats()])
    learn.gather_args = dict  # it fails on plain tensor data sets
    learn.fit(2, 1e-3)
    rows = wandb_run()
    assert sum('raw_loss' in r for r in rows) == 28  # none was dropped because of a step that went back
    with_mean = [r for r in rows if 'activations/0.0/mean' in r]
    assert len(with_mean) == 2 and all('activations/0.0' in r and 'valid_loss' in r for r in with_mean)

def test_wandb_wants_a_run(learner):
    with pytest.raises(ValueError, match='call wandb.init'): learner([ActStats(), WandbStats()]).fit(1)

@pytest.mark.slow
def test_everything_together_changes_no_bit_of_training(learner, tmp_path):
    from fastai_actstats.all import LiveStats, StopOnTrouble
    def weights(cbs):
        learn = learner(cbs)
        learn.fit_one_cycle(2, 1e-2)
        return list(learn.model.state_dict().values()), learn.recorder.losses, torch.get_rng_state()
    plain = weights([])
    full = weights([ActStats(), GradStats(), WeightStats(), DeadUnits(), StopOnTrouble(every=5),
                    TensorBoardStats(tmp_path),
                    LiveStats(tmp_path/'a.png', every=.5, budget=.2)])
    assert all(torch.equal(a, b) for a, b in zip(plain[0], full[0])) and plain[1] == full[1]
    assert torch.equal(plain[2], full[2])

FULL = """import os, resource, signal, sys, warnings
import torch
from fastai.basics import Callback, DataLoaders, Learner, MSELossFlat
from torch import nn
from fastai_actstats.all import ActStats, LiveStats, SaveRecord, TensorBoardStats
data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
class Full(Callback):
    "Nothing more can be written, as on a disk that is full"
    def before_epoch(self):
        if self.epoch < 3: return
        self.learn.save_record._finish()  # for what it writes of the epoch before
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
dls = DataLoaders.from_dsets(data, data, bs=8, num_workers=0, device=torch.device('cpu'))
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
learn = Learner(dls, model, loss_func=MSELossFlat(), path=sys.argv[1], cbs=[
    ActStats(), Full(), TensorBoardStats(sys.argv[1] + '/events'), SaveRecord(),
    LiveStats(sys.argv[1] + '/a.png', every=1, budget=1.)])
learn.logger = lambda *args: None
learn.live_stats.cost = 0.
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter('always')
    learn.fit(7)
    told = sorted(str(w.message).split()[0].rpartition('/')[2] for w in found)
    print(len(learn.act_stats.record), learn.epoch, told, flush=True)
"""

@pytest.mark.slow
def test_training_goes_on_when_the_disk_is_full(tmp_path, record_row):
    import subprocess
    import sys
    done = subprocess.run([sys.executable, '-c', FULL, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "28 6 ['LiveStats', 'TensorBoardStats', 'run.npz']"
    assert len(read_events(tmp_path/'events').Scalars('activations/0/mean')) >= 12
    from fastai_actstats.all import Record
    assert len(Record.load(tmp_path/'run.npz')) == 12 and not list(tmp_path.glob('.*'))
    record_row('faults', 'a disk that is full: records, event files, live pictures',
               'yes, files as of the epoch before', 'yes, it goes on', 'yes, no stale file')

def test_a_directory_that_cannot_be_written_to_is_said_before_training(learner, tmp_path):
    (tmp_path/'file').write_text('x')
    for wrong in (tmp_path/'file', tmp_path/'file'/'below', '/proc/none'):
        learn = learner([ActStats(), TensorBoardStats(wrong)])
        with pytest.raises(ValueError, match=f"log_dir=.*{wrong}.* can't be written to"): learn.fit(1)
        assert not len(learn.act_stats.record)
    assert (tmp_path/'file').read_text() == 'x'

def test_what_goes_wrong_is_said_once_a_fit(learner, tmp_path):
    class Fails(TensorBoardSink):
        done, asked, works = 0, 0, True
        def scalars(self, step, values):
            self.asked += 1
            if not self.works: raise ConnectionError('gone')
            self.done += 1
    sink = Fails(tmp_path)
    learn = learner([ActStats(), StatsLogger(sink)])
    learn.fit(1, 1e-3)
    an_epoch = sink.done
    assert an_epoch > 14 and an_epoch % 14 == 0  # of the layers, and of the run
    sink.works = False
    with pytest.warns(UserWarning, match='Fails could not log: gone') as found: learn.fit(2, 1e-3)
    assert len(found) == 1 and len(learn.act_stats.record) == 42 and sink.done == an_epoch
    assert sink.asked == an_epoch + 1  # left out of the rest of the fit
    sink.works = True
    learn.fit(1, 1e-3)
    assert sink.done == 4*an_epoch and sink.writer is None  # with those of the epoch in which it was left out

def test_a_writer_that_a_broken_fit_left_open_is_closed(learner, tmp_path):
    from fastai.basics import Callback
    class Stop(Callback):
        def before_batch(self): raise KeyboardInterrupt
    learn = learner([ActStats(), TensorBoardStats(tmp_path)])
    with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=Stop())
    left, closed = learn.tensor_board_stats.sink.writer, []
    left.close = lambda close=left.close: closed.append(close())
    learn.fit(1, 1e-3)
    assert closed == [None] and learn.tensor_board_stats.sink.writer is None

def test_wandb_that_fails_does_not_end_the_fit(learner, wandb_run, monkeypatch, record_row):
    import wandb
    def fail(*args, **kwargs): raise wandb.Error('the run is gone')
    learn = learner([ActStats(), WandbStats()])
    monkeypatch.setattr(wandb, 'log', fail)
    with pytest.warns(UserWarning, match='WandbStats could not log: the run is gone') as found: learn.fit(2, 1e-3)
    assert len(found) == 1 and len(learn.act_stats.record) == 28
    record_row('faults', "a logger's server that is gone", 'yes', 'yes, it goes on', '-')
