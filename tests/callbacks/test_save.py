"""`SaveRecord`: files that are there are not replaced by less, and nothing is lost whatever ends the process."""
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from fastai.basics import Callback
from helpers import ROOT, LossTrace, StopAt, hooks_on, make_record, run_script, tiny

from fastai_actstats.all import ActStats, GradStats, Record, SaveRecord
from fastai_actstats.callbacks import save


def beside(path, new):
    return pytest.warns(UserWarning,
                        match=f'{path} holds what this run does not: it stays, and this run is written to {new}')

def test_a_run_that_is_resumed_after_a_kill_keeps_the_old_file(tmp_path, record_row):
    first = tiny(tmp_path, ActStats(), SaveRecord('k.npz'), StopAt(5, 2, RuntimeError('power cut')))
    with pytest.raises(RuntimeError): first.fit(8)
    old = (tmp_path/'k.npz').read_bytes()
    assert len(Record.load(tmp_path/'k.npz')) == 22  # up to the batch that was cut
    again = tiny(tmp_path, ActStats(), SaveRecord('k.npz'))
    with beside(tmp_path/'k.npz', tmp_path/'k.1.npz') as found: again.fit(8, start_epoch=5)
    assert len(found) == 1 and (tmp_path/'k.npz').read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ['k.1.npz', 'k.npz']
    assert Record.load(tmp_path/'k.1.npz') == again.act_stats.record and len(again.act_stats.record) == 12
    record_row('endings', 'resumed after a kill, with the same file name', 'yes, in two files', '-', '-')

def test_a_cell_that_is_run_again_writes_beside_even_if_its_run_is_longer(tmp_path):
    kept = []
    for i, epochs in enumerate((1, 1, 3, 1)):
        learn = tiny(tmp_path, ActStats(), SaveRecord())
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            learn.fit(epochs)
        assert len(found) == (i > 0)
        kept.append(learn.act_stats.record)
    files = [tmp_path/f for f in ('run.npz', 'run.1.npz', 'run.2.npz', 'run.3.npz')]
    assert [Record.load(f) == r for f, r in zip(files, kept)] == [True]*4

def test_the_same_run_goes_on_in_its_file(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(1)
    learn.fit(2)  # the same callback
    learn.remove_cb(learn.save_record)
    learn.fit(1, cbs=SaveRecord())  # another one on the same learner
    assert os.listdir(tmp_path) == ['run.npz'] and Record.load(tmp_path/'run.npz') == learn.act_stats.record
    learn.act_stats.record.epoch(0).save(tmp_path/'part.npz')  # less, of the same run
    learn.fit(1, cbs=SaveRecord('part.npz'))
    assert Record.load(tmp_path/'part.npz') == learn.act_stats.record

def test_a_record_that_was_reset_is_another_run(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(1)
    old = learn.act_stats.record
    learn.act_stats.reset()
    with beside(tmp_path/'run.npz', tmp_path/'run.1.npz'): learn.fit(2)
    assert Record.load(tmp_path/'run.npz') == old and len(Record.load(tmp_path/'run.1.npz')) == 8

def test_a_ring_that_forgets_goes_on_in_its_file_and_spares_one_that_remembers(tmp_path):
    learn = tiny(tmp_path, ActStats(capacity=6, when_full='overwrite'), SaveRecord())
    learn.fit(3)
    assert os.listdir(tmp_path) == ['run.npz'] and Record.load(tmp_path/'run.npz') == learn.act_stats.record
    learn.remove_cb(learn.save_record)
    with beside(tmp_path/'run.npz', tmp_path/'run.1.npz'): learn.fit(1, cbs=SaveRecord())

def test_fewer_layers_or_no_validation_is_less(tmp_path):
    learn = tiny(tmp_path, ActStats(phase='both'), SaveRecord())
    learn.fit(1)
    whole, r = learn.act_stats.record, learn.act_stats.accumulator
    class Part(ActStats):
        @property
        def record(self): return self.part(r.record)
    for i, part in enumerate((lambda rec: rec[0], lambda rec: rec.train, lambda rec: rec.between(2, 9))):
        cb = Part()
        cb.part = part
        two = tiny(tmp_path, cb)
        two.save_record = SaveRecord()
        two.add_cb(two.save_record)
        two.save_record.learn = two
        with beside(tmp_path/'run.npz', tmp_path/f'run.{i + 1}.npz'): two.save_record.write()
    assert Record.load(tmp_path/'run.npz') == whole

@pytest.mark.parametrize('content', ['poem', 'array', 'cut', 'other version'])
def test_what_is_no_record_is_not_replaced(tmp_path, content):
    path = tmp_path/'run.npz'
    if content == 'poem': path.write_text('Tyger Tyger')
    elif content == 'array': np.savez(path, weights=np.ones(3))
    else: path.write_bytes(make_record().save(path).read_bytes()[:300 if content == 'cut' else None])
    old = path.read_bytes()
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    with beside(path, tmp_path/'run.1.npz'): learn.fit(1)
    assert path.read_bytes() == old and Record.load(tmp_path/'run.1.npz') == learn.act_stats.record

def test_an_empty_file_is(tmp_path):
    (tmp_path/'run.npz').touch()
    tiny(tmp_path, ActStats(), SaveRecord()).fit(1)
    assert len(Record.load(tmp_path/'run.npz')) == 4

def test_a_file_that_somebody_else_wrote_in_the_middle_stays(tmp_path):
    class Other(StopAt):
        def before_batch(self):
            if (self.epoch, self.iter, self.training) == self.at: make_record().save(tmp_path/'run.npz')
    learn = tiny(tmp_path, ActStats(), SaveRecord(), Other(1, 2, None))
    with beside(tmp_path/'run.npz', tmp_path/'run.1.npz') as found: learn.fit(4)
    assert len(found) == 1 and Record.load(tmp_path/'run.npz') == make_record()
    assert len(Record.load(tmp_path/'run.1.npz')) == 16

def test_records_of_one_fit_have_one_number(tmp_path):
    make_record().save(tmp_path/'run.grad_stats.npz')
    learn = tiny(tmp_path, ActStats(), GradStats(), SaveRecord())
    with beside(tmp_path/'run.grad_stats.npz', tmp_path/'run.1.npz'): learn.fit(1)
    assert sorted(os.listdir(tmp_path)) == ['run.1.grad_stats.npz', 'run.1.npz', 'run.grad_stats.npz']
    assert Record.load(tmp_path/'run.1.grad_stats.npz').what == 'gradients'

def test_save_by_hand_replaces(tmp_path):
    make_record().save(tmp_path/'run.npz')
    make_record(steps=2).save(tmp_path/'run.npz')
    assert len(Record.load(tmp_path/'run.npz')) == 2 and os.listdir(tmp_path) == ['run.npz']

# every so many seconds, and before a process is ended

TRAINS = '''
import random, signal, time
from fastai.basics import Callback
from fastai_actstats.all import *

class Tell(Callback):
    "Which steps are over, in a file of its own"
    order = 90
    def before_fit(self): self.file = open(self.path/'steps', 'w', 1)
    def after_batch(self):
        if not self.training: return
        self.file.write(f"{self.act_stats.accumulator.step} {time.monotonic()}\\n")
        time.sleep(.005)

def train(folder, seconds, own='none'):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(320, 4), torch.randn(320, 1))
    dls = DataLoaders.from_dsets(data, data, bs=8, num_workers=2*(own == 'workers'), device=torch.device('cpu'))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    cbs = [ActStats(), GradStats(), SaveRecord(seconds=seconds), Tell()]
    learn = quiet(Learner(dls, model, loss_func=MSELossFlat(), path=folder, cbs=cbs))
    learn.fit(3 if own in ('goes on', 'ignores') else 1000)
'''

SIGNALLED = TRAINS + '''
folder, own = Path(sys.argv[1]), sys.argv[2]
def users(number, frame):
    (folder/'users').touch()
    if own == 'exits': sys.exit(5)
if own in ('goes on', 'exits'): signal.signal(signal.SIGTERM, users)
if own == 'ignores': signal.signal(signal.SIGTERM, signal.SIG_IGN)
before = signal.getsignal(signal.SIGTERM)
train(folder, 100., own)
assert signal.getsignal(signal.SIGTERM) is before
(folder/'done').touch()
'''

KILLED = TRAINS + '''
folder, seconds, kills = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
for i in range(kills):
    (folder/str(i)).mkdir()
    pid = os.fork()
    if pid == 0:
        train(folder/str(i), seconds)
        os._exit(1)
    while not (folder/str(i)/'steps').exists(): time.sleep(.01)
    time.sleep(random.uniform(0, 3*seconds))
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    (folder/str(i)/'killed').write_text(str(killed))
'''

def started(folder, own='none', steps=60):
    "A process that trains, after so many steps"
    code = "import sys, warnings\nsys.path.insert(0, 'tests')\nfrom helpers import *\n" + SIGNALLED
    process = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(folder), own], cwd=ROOT,
                               stderr=subprocess.PIPE, text=True)
    while len(told(folder)) < steps and process.poll() is None: time.sleep(.01)
    return process

def told(folder):
    "(Step, when it was over) as far as the process told"
    try: lines = (folder/'steps').read_text().splitlines(True)
    except FileNotFoundError: return []
    return [(int(step), float(when)) for step, when in (line.split() for line in lines if line.endswith('\n'))]

def left(folder):
    "The records, and how many training steps are in them"
    records = [Record.load(folder/f'run{name}.npz') for name in ('', '.grad_stats')]
    assert not [f for f in os.listdir(folder) if f.endswith('.tmp')]
    for rec in records: assert rec.columns['steps'].sum() == rec.columns['last'][-1] + 1 == rec.made['step']
    return [rec.made['step'] for rec in records]

@pytest.mark.slow
@pytest.mark.parametrize('own', ['none', 'exits', 'workers'])
def test_sigterm_leaves_every_step_and_ends_the_process_as_it_would_have(own, tmp_path, record_row):
    process = started(tmp_path, own=own)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == (5 if own == 'exits' else -signal.SIGTERM), said
    steps = told(tmp_path)[-1][0]
    assert 60 <= steps and all(steps <= there <= steps + 1 for there in left(tmp_path))
    assert (tmp_path/'users').exists() == (own == 'exits') and not (tmp_path/'done').exists()
    record_row('endings', 'SIGTERM in mid-epoch', 'yes', '-', '-')

@pytest.mark.slow
@pytest.mark.parametrize('own', ['goes on', 'ignores'])
def test_a_signal_that_ended_nothing_does_not_now(own, tmp_path):
    process = started(tmp_path, own=own, steps=20)
    process.send_signal(signal.SIGTERM)
    if own == 'goes on':
        while not (tmp_path/'users').exists() and process.poll() is None: time.sleep(.01)
        assert left(tmp_path)[0] >= 20
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path/'done').exists() and left(tmp_path) == [120, 120], said

@pytest.mark.slow
def test_sigkill_loses_at_most_so_many_seconds_and_damages_nothing(tmp_path, record_row):
    "`ACTSTATS_KILLS`: how many processes are killed, each at a random moment"
    kills, seconds, damaged, missing = int(os.environ.get('ACTSTATS_KILLS', 5)), .3, 0, []
    res = run_script(KILLED, tmp_path, seconds, kills, timeout=3600)
    assert res.returncode == 0, res.stderr[-2000:]
    for i in range(kills):
        folder = tmp_path/str(i)
        killed, steps, there = float((folder/'killed').read_text()), told(folder), []
        for name in 'run.npz', 'run.grad_stats.npz':
            try: there.append(Record.load(folder/name).made['step'])
            except FileNotFoundError: there.append(0)
            except ValueError: damaged += 1
        lost = [when for step, when in steps if step > min(there)]
        missing.append(killed - lost[0] if lost else 0.)
    assert damaged == 0
    # half a second more for a machine that other processes share: a thread may wait for its turn
    assert max(missing) <= seconds + .5 and np.median(missing) <= seconds, sorted(missing)[-5:]
    record_row('endings', 'SIGKILL at any moment', 'yes, up to the last `seconds`', '-', '-')

def test_every_so_many_seconds(tmp_path, monkeypatch):
    "By a clock that a batch moves by one second"
    clock = SimpleNamespace(now=0., monotonic=lambda: clock.now)
    monkeypatch.setattr(save, 'time', clock)
    written = []
    class Spy(SaveRecord):
        def write(self, **kwargs):
            super().write(**kwargs)
            written.append(len(self.learn.act_stats.record))
    class Tick(Callback):
        order = 62
        def after_batch(self):
            self.spy._finish()
            clock.now += self.training
    every = [4, 8, 12, 12]  # epochs, and the end
    for seconds, due in (3, [3, 4, 4, 7, 8, 8, 11, 12, 12, 12]), (100, every), (None, every), (.5, None):
        clock.now, written[:] = 0., []
        tiny(tmp_path/str(seconds), ActStats(), Spy(seconds=seconds), Tick()).fit(3)
        if due: assert written == due
        else: assert written[:3] == [2, 3, 4] and len(Record.load(tmp_path/'0.5'/'run.npz')) == 12

def test_what_is_written_in_a_thread_does_not_change_with_training(tmp_path, monkeypatch):
    go_on, rows = threading.Event(), []
    real = Record.save
    def slow(self, file, notes=None):
        rows.append(len(self))
        assert go_on.wait(10)
        return real(self, file, notes)
    monkeypatch.setattr(Record, 'save', slow)
    class Go(StopAt):
        order = 90
        def __init__(self): pass
        def before_batch(self): pass
        def after_batch(self):
            if (self.epoch, self.iter, self.training) == (1, 1, True): go_on.set()
    learn = tiny(tmp_path, ActStats(), SaveRecord(), Go())
    threads = threading.active_count()
    learn.fit(2)  # training went on while the first epoch was being written
    assert rows == [4, 8] and Record.load(tmp_path/'run.npz') == learn.act_stats.record
    assert threading.active_count() == threads and not learn.save_record._thread

EVENTS = ('before_epoch', 'before_batch', 'after_batch', 'after_train', 'before_validate', 'after_validate',
          'after_epoch')

@pytest.mark.parametrize('order', [-30, 90])
@pytest.mark.parametrize('where', EVENTS)
def test_an_exception_anywhere_in_an_epoch_leaves_all_there_is(where, order, tmp_path):
    for error in ZeroDivisionError('x'), KeyboardInterrupt(), SystemExit(3):
        def fail(self, error=error):
            if self.epoch == 1 and ('batch' not in where or self.learn.iter == 2): raise error
        cb = type('Fail', (Callback,), {where: fail, 'order': order})()
        folder = tmp_path/type(error).__name__
        learn = tiny(folder, ActStats(), GradStats(), SaveRecord(seconds=None), cb)
        before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
        with pytest.raises(type(error)): learn.fit(3)
        for cb, name in (learn.act_stats, 'run'), (learn.grad_stats, 'run.grad_stats'):
            assert len(cb.record) >= 4 and Record.load(folder/f'{name}.npz') == cb.record
        assert '_with_events' not in vars(learn) and not hooks_on(learn.model)
        assert signal.getsignal(signal.SIGTERM) is before and threading.active_count() <= threads

def test_a_fit_in_another_thread_has_no_handler_and_is_written_all_the_same(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord(seconds=1e-6))
    thread = threading.Thread(target=learn.fit, args=(2,))
    thread.start(); thread.join()
    assert Record.load(tmp_path/'run.npz') == learn.act_stats.record and len(learn.act_stats.record) == 8

@pytest.mark.parametrize('where', ['/proc/no', '/dev/null/no'])
def test_a_folder_that_cannot_be_written_to_is_refused_before_training(where, tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord(f'{where}/run.npz'), trace := LossTrace())
    with pytest.raises(OSError, match=f'SaveRecord cannot write to the folder .{where}.: ') as e: learn.fit(1)
    assert not trace.seen and '. ' not in str(e.value).split('before_fit`:')[1]
