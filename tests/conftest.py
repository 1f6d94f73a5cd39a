"""What the tests share: the reference settings, real digits, learners that print nothing."""
import os

import torch

if not torch.cuda.is_available(): os.environ.setdefault('TRITON_INTERPRET', '1')  # before triton is imported: the CUDA kernel runs in its interpreter

from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest
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

ROWS, HEADS = {}, dict(models='Model', training='Way of training', endings='How a fit ends', phases='Phases', faults='Faults while recording')
INTRO = """# What holds

Made by the tests: `ACTSTATS_TABLE=docs/what_holds.md python -m pytest tests/test_models.py tests/test_training.py`. A line stands here because
its test passed: the record is what plain hooks, a hand count or the steps before the fault say it should be; losses, weights
and random state are equal to the last bit with and without the callback, or the next fit goes on normally; and no hook is left on the model.

A graph that was compiled while a model was watched keeps one operation a layer that does nothing until the model is watched again.
Inside compiled graphs all calls of a module in a forward pass share one row, and `GradStats`, `DeadUnits` and `ActSample` break the graph at the layers they watch.
`DataParallel` itself needs several GPUs; its replicas are tried in threads on the CPU. `to_fp16` and `to_bf16` do nothing on a machine without
a GPU; autocast is tried for real on the CPU.
"""

@pytest.fixture
def record_row():
    "Note a line of the table of what holds, at the end of a test that showed it"
    def note(table, name, *cells): ROWS.setdefault(table, {})[name] = cells
    return note

def pytest_sessionfinish(session, exitstatus):
    if not os.environ.get('ACTSTATS_TABLE') or exitstatus: return
    lines = [INTRO]
    for table, head in HEADS.items():
        lines += [f'| {head} | recorded as it should be | training untouched | nothing left |', '|---|---|---|---|']
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in ROWS.get(table, {}).items()] + ['']
    Path(os.environ['ACTSTATS_TABLE']).write_text('\n'.join(lines))
