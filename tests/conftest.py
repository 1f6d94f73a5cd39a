"""What the tests share: the reference settings, real digits, learners that print nothing."""
import os
os.environ.setdefault('TRITON_INTERPRET', '1')  # before triton is imported: the CUDA kernel runs in its interpreter

from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, accuracy, set_seed
from fastai.callback import progress, schedule

from fastai_actstats.demo import digits, reference_cnn

ROOT = Path(__file__).parent.parent
matplotlib.use('agg')
torch.set_num_threads(1)  # as many workers as cores
os.environ['OMP_NUM_THREADS'] = '1'

def read_settings():
    ini = ConfigParser()
    ini.read(ROOT/'settings.ini')
    ref = ini['reference']
    return SimpleNamespace(seed=ref.getint('seed'), batch_size=ref.getint('batch_size'), lr=ref.getfloat('lr'),
                           epochs=ref.getint('epochs'), valid_pct=ref.getfloat('valid_pct'),
                           channels=tuple(map(int, ref['channels'].split())), kernels=tuple(map(int, ref['kernels'].split())))

@pytest.fixture(scope='session')
def settings(): return read_settings()

@pytest.fixture(scope='session')
def dls(settings): return digits(settings.seed, settings.batch_size, settings.valid_pct)

@pytest.fixture(scope='session')
def few(settings):
    "A quarter of the digits: 14 training and 5 validation batches"
    from fastai.basics import DataLoaders
    full = digits(settings.seed, settings.batch_size, settings.valid_pct)
    part = [torch.utils.data.Subset(ds, range(len(ds)//4)) for ds in (full.train_ds, full.valid_ds)]
    return DataLoaders.from_dsets(*part, bs=settings.batch_size, device=torch.device('cpu'), num_workers=0)

@pytest.fixture
def learner(few, settings):
    "Make a seeded learner without bars: `learner(cbs=..., model=..., dls=...)`"
    def make(cbs=None, model=None, dls=None, **kwargs):
        set_seed(settings.seed)
        dls = dls or few
        for dl in dls: dl.rng.seed(settings.seed)  # the order of batches
        model = reference_cnn(True, settings.channels, settings.kernels) if model is None else model
        kwargs = dict(loss_func=CrossEntropyLossFlat(), metrics=accuracy) | kwargs
        learn = Learner(dls, model, cbs=cbs, **kwargs)
        learn.remove_cbs([cb for cb in learn.cbs if cb.name in ('progress',)])
        learn.logger = lambda *args: None
        learn.recorder.silent = True
        return learn
    return make

def hooks_on(model):
    "Every hook that sits on any module of the model"
    kinds = [k for k in vars(torch.nn.Module()) if k.endswith('_hooks')]
    return [(name, kind) for name, m in model.named_modules() for kind in kinds if getattr(m, kind)]

ROWS = {}

@pytest.fixture
def record_row(request):
    "Note a line of the table of what holds; `ACTSTATS_TABLE=file` has them written at the end of a session without workers"
    def note(table, name, *cells): ROWS.setdefault(table, {})[name] = cells
    return note

def pytest_sessionfinish(session):
    import json
    if os.environ.get('ACTSTATS_TABLE') and ROWS: Path(os.environ['ACTSTATS_TABLE']).write_text(json.dumps(ROWS, indent=1))
