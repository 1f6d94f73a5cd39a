"""Trainings with a fault put in on purpose, healthy ones beside them, and what the report says of each.

`python bench/faults.py` trains them, judges the rules, and writes `bench/results/faults.json` and `docs/faults.md`.
`--runs tune` trains the runs that thresholds were chosen on instead: other seeds, learning rates, widths and depths."""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import torch
from fastai.basics import (
    SGD,
    Adam,
    Callback,
    CrossEntropyLossFlat,
    DataLoaders,
    Lamb,
    Learner,
    RMSProp,
    ranger,
    set_seed,
)
from fastai.layers import ResBlock
from torch import nn

from fastai_actstats.callbacks.activations import ActStats
from fastai_actstats.callbacks.channels import DeadUnits
from fastai_actstats.callbacks.diagnose import diagnose
from fastai_actstats.callbacks.gradients import GradStats
from fastai_actstats.callbacks.weights import WeightStats
from fastai_actstats.demo import digits, reference_cnn

RESULTS = Path(__file__).parent/'results'/'faults.json'
TABLE = Path(__file__).parent.parent/'docs'/'faults.md'
SEEDS = {'tune': (1, 2, 11, 12), 'judge': (13, 14, 15)}  # of digits, weights and the order of batches
LAST = 10**9

@dataclass
class Case:
    "How to make a learner and train it, and what a report has to say"
    make:Callable # (judge: bool) -> (model, dict of settings for `train`)
    findings:tuple=() # Any of these is the right name; none for a healthy run
    layers:str='*' # Glob of the layers that have the fault
    since:tuple=(0, LAST) # First and last step that is about right

CASES = {}

def case(*findings, layers='*', since=(0, LAST)):
    def add(f):
        CASES[f.__name__] = Case(f, findings, layers, since)
        return f
    return add

# networks

def cnn(act=nn.ReLU, norm=None, channels=(8, 16, 32, 64)):
    "The reference CNN with another activation, normalisation or width"
    layers, size = [], 1
    for i, n in enumerate(channels):
        conv = nn.Conv2d(size, n, 3, 2, 1) if i else nn.Conv2d(size, n, 5, 2, 2)
        layers.append(nn.Sequential(conv, *([norm(n)] if norm else []), act()))
        size = n
    return nn.Sequential(*layers, nn.Sequential(nn.Conv2d(size, 10, 3, 2, 1)), nn.Flatten())

def mlp(depth, act=nn.ReLU, width=64):
    "`depth` linear layers"
    sizes = [784] + [width]*(depth - 1) + [10]
    blocks = [nn.Sequential(nn.Linear(a, b), act()) for a, b in zip(sizes, sizes[1:-1])]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(width, 10))

def scaled(model, times, bias=True):
    "All weights `times` larger"
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1: p *= times
            elif not bias: p.zero_()
    return model

class Rows(nn.Module):
    "A digit as 28 tokens of 28 pixels"
    def __init__(self, body, head): super().__init__(); self.body, self.head = body, head
    def forward(self, x):
        x = self.body(x[:, 0])
        return self.head((x[0] if isinstance(x, tuple) else x).mean(1))

class Skips(nn.Module):
    "A network whose forward forgets a block"
    def __init__(self, forgotten):
        super().__init__()
        self.stem = cnn()[0]
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        self.blocks = nn.ModuleList(self.block() for _ in range(4))
        self.forgotten = forgotten
    def block(self): return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    def forward(self, x):
        x = self.stem(x)
        for i, b in enumerate(self.blocks):
            if i != self.forgotten: x = b(x)
        return self.head(x)

class Half(nn.Module):
    "A layer that computes in float16 on values far too large for it"
    def __init__(self, layer): super().__init__(); self.layer = layer.half()
    def forward(self, x): return self.layer((x*1e5).half()).float()/1e5

class SpoiltBatch(Callback):
    "Puts one NaN into one batch"
    def __init__(self, step): self.step = step
    def before_batch(self):
        if self.training and self.train_iter == self.step:
            self.learn.xb = (self.x.clone().index_fill_(0, torch.tensor([0]), float('nan')),)

# faults

@case('exploding', 'bumpy', 'dead', 'update-size', 'nonfinite', since=(0, 80))
def lr_far_too_high(judge): return cnn(), dict(lr=.7 if judge else 1.)

@case('exploding', 'bumpy', 'dead', 'update-size', 'nonfinite', since=(0, 80))
def lr_far_too_high_sgd(judge): return cnn(), dict(lr=20. if judge else 30., opt=SGD, mom=.9)

@case('exploding', 'bumpy', 'dead', 'update-size', 'nonfinite', since=(0, 40))
def no_warmup_plain(judge): return reference_cnn(False), dict(lr=.06 if judge else .08, flat=True)

@case('exploding', 'bumpy', 'dead', 'update-size', 'nonfinite', since=(0, 40))
def lr_far_too_high_batchnorm(judge): return cnn(norm=nn.BatchNorm2d), dict(lr=2. if judge else 3., flat=True)

@case('update-size', since=(0, 0))
def lr_far_too_low(judge): return cnn(), dict(lr=2e-7 if judge else 3e-7)

@case('bumpy', since=(0, 150))
def plain_one_cycle(judge): return reference_cnn(False), dict(lr=.06, epochs=5)

@case('bad-init', since=(0, 0))
def init_far_too_large(judge): return scaled(cnn(), 12 if judge else 10), dict(lr=1e-3)

@case('bad-init', since=(0, 0))
def init_far_too_small(judge): return scaled(cnn(), .08 if judge else .1, bias=False), dict(lr=1e-3)

@case('dead', layers='2.0', since=(0, 5))
def bias_kills_relu(judge):
    model = cnn()
    nn.init.constant_(model[2][0].bias, -8 if judge else -10)
    return model, dict(lr=2e-3)

@case('vanishing', layers='[1-4].0*', since=(0, 20))
def deep_sigmoid(judge): return mlp(9 if judge else 8, nn.Sigmoid), dict(lr=1e-3)

@case('vanishing', 'bad-init', since=(0, 20))
def deep_tanh(judge): return mlp(22 if judge else 20, nn.Tanh), dict(lr=1e-3)

@case('saturated', layers='[1-8].0*', since=(0, 5))
def deep_tanh_saturated(judge): return scaled(mlp(9 if judge else 8, nn.Tanh), 14 if judge else 12), dict(lr=1e-3)

@case('nonfinite', layers='0.0', since=(31, 31))
def nan_in_one_batch(judge): return cnn(), dict(lr=2e-3, cbs=[SpoiltBatch(31)])

@case('out-of-range', 'bad-init', layers='0.0', since=(0, 0))
def inputs_not_normalised(judge): return cnn(), dict(lr=2e-3, raw=True)

@case('frozen', layers='2.0*', since=(0, 0))
def frozen_layer(judge):
    model = cnn(norm=nn.BatchNorm2d)
    model[2][0].requires_grad_(False)
    return model, dict(lr=5e-3)

@case('nonfinite', layers='2.0.layer', since=(0, 0))
def fp16_overflow(judge):
    model = cnn()
    model[2][0] = Half(model[2][0])
    return model, dict(lr=2e-3)

@case('never-ran', layers='blocks.2.*', since=(0, 0))
def layer_skipped(judge): return Skips(2), dict(lr=5e-3)

# healthy ones

@case()
def reference(judge): return reference_cnn(True), dict(lr=6e-2, epochs=3)
@case()
def reference_gentle(judge): return reference_cnn(False), dict(lr=8e-3 if judge else 1e-2, epochs=3)
@case()
def plain_sgd(judge): return cnn(), dict(lr=.08 if judge else .1, opt=SGD, mom=.9)
@case()
def gelu(judge): return cnn(nn.GELU), dict(lr=4e-3 if judge else 3e-3)
@case()
def silu_batchnorm(judge): return cnn(nn.SiLU, nn.BatchNorm2d), dict(lr=1.5e-2 if judge else 2e-2)
@case()
def leaky(judge): return cnn(nn.LeakyReLU), dict(lr=1.5e-3 if judge else 2e-3, opt=RMSProp)
@case()
def groupnorm(judge): return cnn(norm=lambda n: nn.GroupNorm(4, n)), dict(lr=1e-2)
@case()
def wide(judge): return cnn(channels=(16, 24, 48, 96) if judge else (12, 24, 48, 64)), dict(lr=2e-3, opt=ranger)
@case()
def relu_mlp(judge): return mlp(4 if judge else 3), dict(lr=3e-3)
@case()
def tanh_mlp(judge): return mlp(4 if judge else 3, nn.Tanh), dict(lr=2e-3)
@case()
def sigmoid_mlp(judge): return mlp(2, nn.Sigmoid, 100 if judge else 64), dict(lr=5e-3)
@case()
def residual(judge):
    return nn.Sequential(ResBlock(1, 1, 8, stride=2), ResBlock(1, 8, 16, stride=2), ResBlock(1, 16, 16),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)), dict(lr=1e-2 if judge else 2e-2)
@case()
def residual_lamb(judge):
    blocks = [ResBlock(1, a, b, stride=2, act_cls=nn.SiLU) for a, b in ((1, 8), (8, 16))]
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    return nn.Sequential(*blocks, *head), dict(lr=.02 if judge else .03, opt=Lamb)
@case()
def transformer(judge):
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation='gelu')
    body = nn.Sequential(nn.Linear(28, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    return Rows(body, nn.Linear(32, 10)), dict(lr=2e-3 if judge else 3e-3, units=False)
@case()
def lstm(judge):
    width = 48 if judge else 32
    return Rows(nn.LSTM(28, width, batch_first=True), nn.Linear(width, 10)), dict(lr=1e-2, units=False)

# training and judging

digits = lru_cache(digits)

def data(seed, raw=False, share=1.):
    dls = digits(seed)
    parts = [ds.dataset for ds in (dls.train_ds, dls.valid_ds)]
    if raw:
        x = parts[0].tensors[0]
        x = ((x - x.min())/(x.max() - x.min())*255).round()
        parts = [torch.utils.data.TensorDataset(x, parts[0].tensors[1])]*2
    indices = [ds.indices[:int(len(ds)*share)] for ds in (dls.train_ds, dls.valid_ds)]
    parts = [torch.utils.data.Subset(p, i) for p, i in zip(parts, indices)]
    return DataLoaders.from_dsets(*parts, bs=64, device=torch.device('cpu'), num_workers=0)

def watchers(units=True): return [ActStats(), GradStats(), WeightStats(every=3)] + [DeadUnits()]*units

def train(name, seed, judge=True, watch=watchers, epochs=2, share=1.):
    "The learner of a case, trained with the callbacks `watch()` on it"
    set_seed(seed)
    model, how = CASES[name].make(judge)
    opt, kwargs = how.get('opt', Adam), {k: how[k] for k in ('mom',) if k in how}
    cbs = [*watch(how.get('units', True)), *how.get('cbs', [])]
    learn = Learner(data(seed, how.get('raw', False), share), model, loss_func=CrossEntropyLossFlat(),
                    opt_func=lambda p, **kw: opt(p, **(kw | kwargs)), cbs=cbs)
    set_seed(seed)
    fit = learn.fit if how.get('flat') else learn.fit_one_cycle
    with learn.no_bar(), learn.no_logging(): fit(how.get('epochs', epochs), how['lr'])
    return learn

def judged(name, seed, report, case=None):
    "What a report says of a case: a row of the results"
    case = case or CASES[name]
    rows, (first, last) = [(f.layer, f.finding, f.since) for f in report], case.since
    right = [(layer, finding, since) for layer, finding, since in rows
             if finding in case.findings and fnmatchcase(layer, case.layers) and first <= since <= last]
    return dict(case=name, seed=seed, expected=list(case.findings), layers=case.layers, since=list(case.since),
                found=rows, right=bool(right) if case.findings else not rows, named=right[0] if right else None)

def run(which='judge', names=None, seeds=None):
    "Train and judge; yields rows"
    for name in names or CASES:
        for seed in seeds or SEEDS[which]:
            learn = train(name, seed, which == 'judge')
            loss = [round(float(v), 4) for v in learn.recorder.values[-1][:2]]
            yield judged(name, seed, diagnose(learn)) | dict(loss=loss)

HEAD = """# How far to trust the report

Trainings on real digits with a fault put in on purpose, and healthy ones beside them, each with `ActStats`,
`GradStats`, `WeightStats(every=3)` and `DeadUnits` on it; written by `python bench/faults.py`. A fault counts as
named when one of the expected findings is reported for the right layer (a glob) within the right steps; a healthy run
counts as right when nothing is reported. What else is reported of a faulty run mostly follows from the fault.

Thresholds were chosen on other seeds, learning rates, widths and depths (`--runs tune`, seeds 1 and 2). A first
judgement, on seeds 11 and 12, named all 34 faulty runs and raised one false alarm among 30 healthy ones ('exploding'
in a residual network, at a convolution before a batchnorm, where the size of a gradient says little). The rule has
left out such layers since, and was judged again on seeds 13 to 15, which nothing was chosen on.

"""

def table(results):
    "The results as Markdown: the confusion table, then every run"
    faulty, healthy = [r for r in results if r['expected']], [r for r in results if not r['expected']]
    named, quiet = sum(r['right'] for r in faulty), sum(r['right'] for r in healthy)
    other = sum(bool(r['found']) and not r['right'] for r in faulty)
    lines = [HEAD, '| | named rightly | something else reported | nothing reported |', '|---|---|---|---|',
             f"| {len(faulty)} faulty runs | {named} | {other} | {len(faulty) - named - other} |",
             f"| {len(healthy)} healthy runs | | {len(healthy) - quiet} | {quiet} |", '',
             '## Faulty', '', '| fault | seed | expected | in | since step | named | also reported |',
             '|---|---|---|---|---|---|---|']
    for r in faulty:
        last = f"to {r['since'][1]}" if r['since'][1] != r['since'][0] else ''
        also = ', '.join(f"{f} {l} ({t})" for l, f, t in r['found'] if [l, f, t] != list(r['named'] or ()))
        first = '**not named**' if not r['right'] else '{1} {0} ({2})'.format(*r['named'])
        lines.append(f"| {r['case']} | {r['seed']} | {', '.join(r['expected'])} | `{r['layers']}` | "
                     f"{r['since'][0]} {last} | {first} | {also} |")
    lines += ['', '## Healthy', '', '| network | seed | reported | training and validation loss at the end |',
              '|---|---|---|---|']
    for r in healthy:
        said = ', '.join(f"{f} {l} ({t})" for l, f, t in r['found']) or 'nothing'
        lines.append(f"| {r['case']} | {r['seed']} | {said} | {r['loss'][0]:.3f}, {r['loss'][1]:.3f} |")
    return '\n'.join(lines) + '\n'

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', choices=SEEDS, default='judge',
                        help='runs that are judged, or those that thresholds were chosen on')
    parser.add_argument('cases', nargs='*', choices=[*CASES, []], help='some only; then nothing is written')
    args = parser.parse_args()
    torch.set_num_threads(1)
    results, start = [], time.perf_counter()
    for r in run(args.runs, args.cases):
        results.append(r)
        verdict = 'right' if r['right'] else 'WRONG'
        print(f"{time.perf_counter() - start:6.0f} s  {r['case']} {r['seed']}: {verdict}, {r['named'] or r['found']}",
              flush=True)
    if args.runs == 'tune' or args.cases: return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + '\n')
    TABLE.write_text(table(json.loads(RESULTS.read_text())))

if __name__ == '__main__': main()
