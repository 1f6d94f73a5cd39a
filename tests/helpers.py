"""What several test files use: paths and settings, learners that print nothing, references to compare records with."""
import os
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import torch

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before triton is imported: the CUDA kernel runs in its interpreter
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)  # as many workers as cores
matplotlib.use('agg')

from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, MSELossFlat, set_seed
from fastai.callback import progress, schedule  # noqa: F401, give learners their bar and `fit_one_cycle`
from fastai.callback.fp16 import MixedPrecision
from torch import nn
from torch.amp import GradScaler, autocast

from fastai_actstats.all import ActStats, Bins, Record, Sample
from fastai_actstats.core.layers import choose, first_float
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.demo import reference_cnn

ROOT = Path(__file__).resolve().parent.parent

def read_settings():
    "The reference trainings' settings, from settings.ini"
    ini = ConfigParser()
    ini.read(ROOT/'settings.ini')
    ref = ini['reference']
    return SimpleNamespace(
        seed=ref.getint('seed'), batch_size=ref.getint('batch_size'), lr=ref.getfloat('lr'),
        epochs=ref.getint('epochs'), valid_pct=ref.getfloat('valid_pct'),
        channels=tuple(map(int, ref['channels'].split())),
        kernels=tuple(map(int, ref['kernels'].split())))

def run_script(code, *args, env=None, timeout=300):
    "Python code in a process of its own, with what stands here"
    start = "import sys, warnings\nsys.path.insert(0, 'tests')\nfrom helpers import *\n"
    return subprocess.run([sys.executable, '-W', 'ignore', '-c', start + code, *map(str, args)], cwd=ROOT,
                          capture_output=True,
                          text=True, timeout=timeout, env={**os.environ, **(env or {})})

# models and learners

def hooks_on(model):
    "Every hook that sits on any module of the model"
    kinds = [k for k in vars(torch.nn.Module()) if k.endswith('_hooks')]
    return [(name, kind) for name, m in model.named_modules() for kind in kinds if getattr(m, kind)]

def quiet(learn):
    "The same learner, without a bar and without what it prints"
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = lambda *args: None
    learn.recorder.silent = True
    return learn

def seeded(few, settings, cbs=None, model=None, dls=None, **kwargs):
    "A learner of the digits that begins from the same weights, batches and random state each time"
    set_seed(settings.seed)
    dls = dls or few
    for dl in dls: dl.rng.seed(settings.seed)  # the order of batches
    model = reference_cnn(True, settings.channels, settings.kernels) if model is None else model
    return quiet(Learner(dls, model, cbs=cbs, **{'loss_func': CrossEntropyLossFlat(), **kwargs}))

def tiny(path, *cbs):
    "A learner of random numbers: 4 training and 4 validation batches, layers '0', '1' and '2'"
    data = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randn(32, 1))
    dls = DataLoaders.from_dsets(data, data, bs=8, num_workers=0, device=torch.device('cpu'))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    return quiet(Learner(dls, model, loss_func=MSELossFlat(), path=path, cbs=list(cbs)))

class Integers(nn.Module):
    "A layer without floats"
    def forward(self, x): return x.argmax(1)

class CpuAmp(MixedPrecision):
    "fastai's callback, which asks for CUDA, on the CPU"
    def __init__(self, scale=2.**10, dtype=torch.bfloat16, **kwargs):
        super().__init__()
        self.scaler_args, self.dtype = dict(init_scale=scale, **kwargs), dtype
    def before_fit(self):
        self.autocast, self.learn.scaler = autocast('cpu', dtype=self.dtype), GradScaler('cpu', **self.scaler_args)
        self.scales = []

class StopAt(Callback):
    "Raises before a training batch"
    def __init__(self, epoch, batch, error): self.at, self.error = (epoch, batch, True), error
    def before_batch(self):
        if (self.epoch, self.iter, self.training) == self.at: raise self.error

# references

class LossTrace(Callback):
    "The loss of every batch of all fits"
    order = 99
    def __init__(self): self.seen = []
    def after_batch(self): self.seen.append(self.learn.loss.detach().mean().clone())  # `get_preds` has one an item

class Keep(Callback):
    "What plain hooks see of each training batch: layer → its floats of a batch, those of all calls"
    order = 90
    def __init__(self, layers=None): self.wanted = layers
    def before_fit(self):
        self.steps, self.now = [], {}
        modules = choose(self.model, self.wanted)
        self.handles = [m.register_forward_hook(self.hook(name)) for name, m in modules.items()]
    def hook(self, name):
        def see(module, args, output):
            if self.learn.training: self.now.setdefault(name, []).append(first_float(output).detach().clone())
        return see
    def before_batch(self): self.now = {}
    def after_batch(self):
        if self.training: self.steps.append(self.now)
    def after_fit(self): [h.remove() for h in self.handles]

    @property
    def rows(self):
        "A dictionary a step: layer → its values in float64, flat"
        return [{n: torch.cat([x.double().flatten() for x in calls]) for n, calls in step.items()}
                for step in self.steps]
    def outputs(self, name): return [torch.cat(step[name]) for step in self.steps]

def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))

# records

def make_record(layers=3, steps=12, **kwargs):
    "Random numbers, the later layers with the larger ones: a record of known types and shapes"
    torch.manual_seed(0)
    ring = Ring(64, layers, Bins(12, -3, 3))
    for step in range(steps):
        rows = [Summary.of(torch.randn(40)*(i + 1), ring.bins).rows for i in range(layers)]
        ring.push(torch.stack(rows), step, epoch=step//5)
    info = {str(i): dict(type='Linear', shape=(8, 5)) for i in range(layers)}
    return Record(*ring.read(), [str(i) for i in range(layers)], ring.bins, info=info, **kwargs)

def record_of(steps, what='activations', bins=Bins(), **info):  # noqa: B008, bins never change
    "A record of `steps`: lists of one tensor a layer; `info`: what is known of all layers"
    n = len(steps[0])
    ring = Ring(max(len(steps), 2), n, bins)
    for t, xs in enumerate(steps): ring.push(torch.stack([Summary.of(x, bins).rows for x in xs]), t)
    names = [f'l{i}' for i in range(n)]
    return Record(*ring.read(), names, bins, what, {name: dict(info) for name in names})

def two_fits(few, settings):
    "The record of two fits, three epochs, training and validation"
    learn = seeded(few, settings, ActStats(phase='both'), reference_cnn())
    learn.fit(2, settings.lr)
    learn.fit(1, settings.lr/10)
    return learn.act_stats.record

def make_sample():
    "80 items of two epochs in four groups, each of which is high in one unit"
    rng = np.random.RandomState(0)
    x = rng.randn(80, 6).astype(np.float32)
    target = np.arange(80) % 4
    x[np.arange(80), target] += 4
    return Sample({'a.b/c': x, '0': x[:, :1]}, np.arange(80), np.repeat([0, 1], 40), target, target[::-1].copy(),
                  dict(seed=1, pool='mean', seen=99, vocab=list('wxyz')))

def findings(report): return [(f.layer, f.finding, f.since) for f in report]
