"""A run that was killed goes on in the same record: as if it had never ended."""
import os
import re
import signal
from functools import partial

import numpy as np
import pytest
import torch
from fastai.basics import set_seed
from helpers import LossTrace, StopAt, run_script, same, tiny
from torch import nn

from fastai_actstats.all import ActStats, GradStats, Record, SaveRecord, WeightStats, diagnose

TRAINS = '''
from helpers import *
from fastai.basics import Callback
from fastai_actstats.all import *
import os, signal, torch
from fastai.callback.training import GradientAccumulation

folder, what, more = Path(argv[1]), argv[2], eval(argv[3])
RESUME = dict(resume='run.npz') if what == 'resume' else {}
KINDS = dict(act_stats=lambda: ActStats(capacity=16, phase='both', **RESUME), grad_stats=lambda: GradStats(**RESUME),
             weight_stats=lambda: WeightStats(capacity=10, **RESUME))

class Checkpoint(Callback):
    "Weights, optimiser and random state with each epoch; killed after the third"
    order = 70
    def after_epoch(self):
        self.learn.save_record._finish()
        self.learn.save('weights')
        torch.save(dict(torch=torch.get_rng_state(), order=self.dls.train.rng.getstate()), folder/'rng.pt')
        if what == 'killed' and self.epoch == 2: os.kill(os.getpid(), signal.SIGKILL)

settings = read_settings()
from fastai_actstats.demo import digits
dls = digits(settings.seed, settings.batch_size, settings.valid_pct)
few = DataLoaders.from_dsets(*[torch.utils.data.Subset(ds, range(len(ds)//16)) for ds in (dls.train_ds, dls.valid_ds)],
                             bs=32, device=torch.device('cpu'), num_workers=0)
learn = seeded(few, settings, [*(KINDS[k]() for k in KINDS), SaveRecord(), Checkpoint(), *more], path=folder)
if what == 'resume':
    learn.create_opt()
    learn.load('weights', with_opt=True)
    state = torch.load(folder/'rng.pt', weights_only=False)
    torch.set_rng_state(state['torch'])
    few.train.rng.setstate(state['order'])
if what == 'whole': learn.fit(3, 1e-2)
learn.fit(3, 1e-2)
assert what != 'killed'
'''
FILES = ('run', 'run.grad_stats', 'run.weight_stats', 'run.weight_stats.updates', 'run.weight_stats.weight_gradients')

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:numpy.core is deprecated')  # by what fastai's `load` uses
@pytest.mark.parametrize('more', ['[]', '[GradientAccumulation(96), CpuAmp()]'], ids=['plain', 'AMP, accumulation'])
def test_killed_after_three_epochs_and_resumed_is_as_never_killed(more, tmp_path, record_row):
    whole, parts = tmp_path/'whole', tmp_path/'parts'
    for folder, what in (whole, 'whole'), (parts, 'killed'), (parts, 'resume'):
        if what != 'killed': exec(TRAINS, dict(argv=['', folder, what, more]))
        else:
            res = run_script('from sys import argv\n' + TRAINS, folder, what, more)
            assert res.returncode == -signal.SIGKILL, res.stderr[-2000:]
    for name in FILES:
        a, b = (Record.load(folder/f'{name}.npz') for folder in (whole, parts))
        assert a == b and a.made['step'] == b.made['step'] and a.epochs.max() == 5 and a.fits.max() == 1, name
    rec = Record.load(parts/'run.npz')
    assert len(rec.valid) and rec.columns['steps'].max() > 1  # its ring was full, and merged across the restart
    assert sorted(f.name for f in parts.glob('*.npz')) == sorted(f'{name}.npz' for name in FILES)
    way = '' if more == '[]' else ', with AMP and accumulation'
    record_row('endings', f'killed, and resumed from the file{way}', 'yes', 'yes', '-')

def test_a_ring_goes_on_as_it_was(tmp_path):
    "Whatever was there when the file was written: an open column, an odd capacity, one that overwrites"
    for capacity, when_full, first in (6, 'merge', 3), (5, 'merge', 2), (7, 'merge', 1), (4, 'overwrite', 2):
        stats = partial(ActStats, capacity=capacity, when_full=when_full)
        torch.manual_seed(1)
        a = tiny(tmp_path/f'{capacity}', stats(), StopAt(first, 2, KeyboardInterrupt()), SaveRecord())
        with pytest.raises(KeyboardInterrupt): a.fit(5)
        b = tiny(tmp_path/f'{capacity} again', stats(resume='run.npz'), SaveRecord())
        b.path.mkdir()
        (b.path/'run.npz').write_bytes((a.path/'run.npz').read_bytes())
        a.remove_cb(StopAt)
        b.dls, weights = a.dls, {k: v.clone() for k, v in a.model.state_dict().items()}
        for learn in a, b:
            learn.model.load_state_dict(weights)
            learn.dls.train.rng.seed(3)
            learn.fit(3, reset_opt=True)
        ra, rb = a.act_stats.record, b.act_stats.record
        assert np.array_equal(ra.columns, rb.columns) and torch.equal(ra.rows, rb.rows)
        assert rb == Record.load(b.path/'run.npz') and os.listdir(b.path) == ['run.npz']

def test_steps_count_on_that_were_not_recorded(tmp_path):
    "With every=5, nine steps are recorded as 0 and 5; the next one is 9"
    learn = tiny(tmp_path, ActStats(every=5), SaveRecord(), StopAt(2, 1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): learn.fit(4)
    assert learn.act_stats.accumulator.step == 9 and Record.load(tmp_path/'run.npz').made['step'] == 9
    again = tiny(tmp_path, ActStats(every=5, resume='run.npz'))
    again.fit(3)
    assert again.act_stats.accumulator.step == 21
    assert again.act_stats.record.steps[:, 0].tolist() == [0, 5, 10, 15, 20]

def test_a_record_that_reaches_further_than_the_checkpoint_is_cut(tmp_path):
    learn = tiny(tmp_path, ActStats())
    learn.fit(3)
    learn.act_stats.record.between(0, 7).save(tmp_path/'run.npz')
    again = tiny(tmp_path, ActStats(resume='run.npz'))
    again.fit(1)
    assert again.act_stats.record.steps[:, 0].tolist() == list(range(12))
    assert again.act_stats.record.epochs.tolist() == [0]*4 + [1]*4 + [2]*4

def test_fewer_columns_than_the_file_has(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(4)
    for when_full in 'merge', 'overwrite':
        again = tiny(tmp_path, ActStats(capacity=6, when_full=when_full, resume='run.npz'))
        again.fit(1)
        rec = again.act_stats.record
        assert len(rec) <= 6 and rec.steps[-1, 1] == 19
        if when_full == 'merge': assert rec.count[:, 0].sum() == 20*8*8 and rec.steps[0, 0] == 0
        else: assert rec.steps[:, 0].tolist() == list(range(14, 20))

def test_files_that_were_written_at_different_moments(tmp_path):
    "A process that was killed between two of its files: as far as both reach, and on one time line"
    learn = tiny(tmp_path, ActStats(), WeightStats(), SaveRecord())
    learn.fit(1)
    old = (tmp_path/'run.weight_stats.updates.npz').read_bytes()
    learn.fit(1)
    (tmp_path/'run.weight_stats.updates.npz').write_bytes(old)
    again = tiny(tmp_path, WeightStats(resume='run.weight_stats.npz'), ActStats(resume='run.npz'))
    again.fit(1)
    assert again.act_stats.record.steps[:, 0].tolist() == list(range(12))
    for rec in again.weight_stats.records: assert rec.steps[:, 0].tolist() == [*range(4), *range(8, 12)]
    assert diagnose(again) is not None

def test_lr_find_and_validate_before_do_not_use_the_file_up(tmp_path, monkeypatch):
    tiny(tmp_path, ActStats(), SaveRecord()).fit(1)
    again = tiny(tmp_path, ActStats(resume='run.npz'))
    again.validate()
    assert len(again.act_stats.record) == 0
    again.fit(1)
    again.fit(1)
    assert again.act_stats.record.steps[:, 0].tolist() == list(range(12)) and again.act_stats.record.fits[-1] == 2
    again.act_stats.reset()
    again.fit(1)
    assert len(again.act_stats.record) == 4

def test_training_is_untouched(tmp_path, record_row):
    tiny(tmp_path, ActStats(), SaveRecord()).fit(1)
    seen = []
    for cbs in [], [ActStats(resume='run.npz'), SaveRecord(seconds=1e-6)]:
        set_seed(3)
        learn = tiny(tmp_path, *cbs, trace := LossTrace())
        learn.fit(3)
        seen.append([*trace.seen, *learn.model.parameters(), torch.get_rng_state(), torch.rand(3)])
        assert not set(vars(learn)) & {'_with_events', 'all_batches'}
    assert same(*seen)
    record_row('training', 'resumed, and saved after every batch', 'yes', 'yes', 'yes')

# what does not fit

def wider(path, *cbs):
    learn = tiny(path, *cbs)
    learn.model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    return learn

def deeper(path, *cbs):
    learn = tiny(path, *cbs)
    learn.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    return learn

def other_type(path, *cbs):
    learn = tiny(path, *cbs)
    learn.model = nn.Sequential(nn.Bilinear(4, 4, 8), nn.ReLU(), nn.Linear(8, 1))
    return learn

REFUSED = {
    'other layers': (deeper, lambda: ActStats(resume='run.npz'),
                     "lacks layers that are watched here: 4 .it has: 0, 2"),
    'fewer layers': (tiny, lambda: ActStats(['0'], resume='run.npz'), 'layers that are not watched here: 2'),
    'other type': (other_type, lambda: ActStats(resume='run.npz'), "'0' is a Linear in it, and here a Bilinear"),
    'other width': (wider, lambda: ActStats(resume='run.npz'), "'0' has 8 channels in it, and here 16"),
    'other width, weights': (wider, lambda: WeightStats(resume='run.npz'), r"'0.weight' has shape \(8, 4\) in it"),
    'other bins': (tiny, lambda: ActStats(bins=40, resume='run.npz'), 'bins are 80 equal bins .* here they are 40 '),
    'other range': (tiny, lambda: ActStats(range=(-1, 1), resume='run.npz'),
                    'here they are 80 equal bins from -1 to 1'),
    'other phase': (tiny, lambda: ActStats(phase='valid', resume='run.npz'), "columns of another phase than 'valid'"),
    'not there': (tiny, lambda: ActStats(resume='walk.npz'), "walk.npz': there is no such file"),
    'a folder': (tiny, lambda: ActStats(resume='models'), "models': there is no such file"),
    'foreign': (tiny, lambda: ActStats(resume='foreign.npz'), 'was not loaded: it is not a record'),
    'a poem': (tiny, lambda: ActStats(resume='poem.npz'), 'was not loaded: it is damaged, or no record'),
    'of another callback': (tiny, lambda: ActStats(resume='run.grad_stats.npz'),
                            'holds gradients, not activations, and there is no run.grad_stats.act_stats.npz'),
    'without the rest': (tiny, lambda: WeightStats(resume='part.npz'), 'part.updates.npz.: there is no such file'),
    'of two runs': (tiny, lambda: WeightStats(resume='two.npz'), 'are of different runs'),
}

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('files')
    for sub in '', 'other':
        (folder/sub).mkdir(exist_ok=True)
        tiny(folder/sub, ActStats(), GradStats(), WeightStats(), SaveRecord()).fit(1)
    (folder/'models').mkdir(exist_ok=True)
    np.savez(folder/'foreign.npz', weights=np.ones(3))
    (folder/'poem.npz').write_text('Tyger Tyger')
    for name in 'part', 'two':
        (folder/f'{name}.npz').write_bytes((folder/'run.weight_stats.npz').read_bytes())
    for what in 'updates', 'weight_gradients':
        (folder/f'two.{what}.npz').write_bytes((folder/'other'/f'run.weight_stats.{what}.npz').read_bytes())
    return folder

@pytest.mark.parametrize('case', REFUSED)
def test_what_does_not_fit_is_refused_before_training(case, files):
    make, cb, words = REFUSED[case]
    learn = make(files, cb(), trace := LossTrace())
    before = [p.clone() for p in learn.model.parameters()]
    with pytest.raises((ValueError, FileNotFoundError), match=words) as e: learn.fit(1)
    assert not re.search(r'[.!?] [A-Z]', str(e.value))  # one sentence
    assert not trace.seen and same(before, list(learn.model.parameters()))

@pytest.mark.parametrize('value', ['', 5, b'a', '/'])
@pytest.mark.parametrize('kind', [ActStats, GradStats, WeightStats])
def test_no_path(kind, value):
    with pytest.raises((TypeError, ValueError), match='resume='): kind(resume=value)
