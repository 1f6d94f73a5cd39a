"""Does `explain` say what happened? `python bench/explain.py [--records DIR] [--seeds 0 1 2 3 4] [--twist NAME]`

Three networks, five faults put into their training at a step that the seed decides, and healthy runs; judged are kind,
step and layer. With `--records` the records are kept in a folder, and runs that are there are not trained again.
`--twist` makes other faults than those that the table is about: smaller ones, or other networks."""
import argparse
import inspect
import json
import random
import warnings
from functools import cache
from pathlib import Path

import torch
from fastai.basics import Adam, Callback, CrossEntropyLossFlat, DataLoaders, Learner, set_seed
from fastai.callback import schedule  # noqa: F401, gives learners `fit_one_cycle`
from fastprogress.fastprogress import progress_bar
from measure import HERE, machine, quiet
from torch import nn

from fastai_actstats.all import ActStats, Record
from fastai_actstats.demo import digits, reference_cnn

EVENTS = 'batch', 'layer', 'learning rate', 'non-finite', 'drift'
STEPS, DRIFT_FROM = 232, 60
TWISTS = {'': {}, 'small': dict(times=100., weights=10., rate=30., drift=1.01),
          'late': dict(at=(150, 200), drift_from=90)}

# networks

class Rows(nn.Module):
    "A small transformer that reads a digit row by row"
    def __init__(self, wide=48, layers=2):
        super().__init__()
        self.into, self.place = nn.Linear(28, wide), nn.Parameter(torch.randn(28, wide)*.1)
        self.layers = nn.Sequential(*[nn.TransformerEncoderLayer(wide, 4, 2*wide, dropout=.1, batch_first=True,
                                                                 norm_first=True) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, 10)
    def forward(self, x): return self.head(self.norm(self.layers(self.into(x.squeeze(1)) + self.place)).mean(1))

class Language(nn.Module):
    "A language model of characters with two LSTMs"
    def __init__(self, words, wide=48):
        super().__init__()
        self.words, self.first = nn.Embedding(words, wide), nn.LSTM(wide, 64, batch_first=True)
        self.drop = nn.Dropout(.1)
        self.second, self.head = nn.LSTM(64, 64, batch_first=True), nn.Linear(64, words)
    def forward(self, x): return self.head(self.second(self.drop(self.first(self.words(x))[0]))[0])

class Perceptron(nn.Module):
    "Three layers with tanh, for a network that no threshold was chosen on"
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(),
                                  nn.Linear(64, 10))
    def forward(self, x): return self.body(x)

@cache
def text(bs=16, length=24):
    "Characters of Python's own modules, in order"
    said = ''.join(inspect.getsource(m) for m in (argparse, random, json, inspect))
    chars = sorted(set(said))
    ids = torch.tensor([chars.index(c) for c in said[:bs*length*60 + 1]])
    x, y = ids[:-1].view(-1, length), ids[1:].view(-1, length)
    data = torch.utils.data.TensorDataset(x, y)
    valid = torch.utils.data.Subset(data, range(bs))
    return DataLoaders.from_dsets(torch.utils.data.Subset(data, range(58*bs)), valid, bs=bs,
                                  device=torch.device('cpu'), num_workers=0), len(chars)

@cache
def images(bs=32):
    "58 batches of digits, and one to validate"
    dls = digits(batch_size=bs)
    parts = torch.utils.data.Subset(dls.train_ds, range(58*bs)), torch.utils.data.Subset(dls.valid_ds, range(bs))
    return DataLoaders.from_dsets(*parts, bs=bs, device=torch.device('cpu'), num_workers=0)

def network(name):
    "Loaders and a new model"
    if name == 'LSTM language model':
        dls, n = text()
        return dls, Language(n)
    make = {'CNN': lambda: reference_cnn(False), 'CNN with batchnorm': reference_cnn, 'transformer': Rows}
    return images(), make.get(name, Perceptron)()

# layers that a fault may hit
LAYERS = {name: [f'{i}.0' for i in range(5)] for name in ('CNN', 'CNN with batchnorm')} | {
    'LSTM language model': ['words', 'first', 'second', 'head'], 'perceptron': ['body.1', 'body.3', 'body.5'],
    'transformer': ['into', *(f'layers.{i}.{n}' for i in range(2) for n in ('self_attn', 'linear1', 'linear2')), 'norm',
                    'head']}

NETWORKS = 'CNN', 'transformer', 'LSTM language model'
OTHERS = 'perceptron', 'CNN with batchnorm'
RATES = {'CNN': 3e-3, 'transformer': 3e-3, 'LSTM language model': 5e-3, 'perceptron': 3e-3, 'CNN with batchnorm': 1e-2}

# faults

class Fault(Callback):
    "Does one thing to a run"
    order = 65  # after the schedule of learning rates, which acts before each batch
    def __init__(self, kind, step, layer, twist):
        self.kind, self.step, self.layer, self.n = kind, step, layer, -1
        self.times, self.weights = twist.get('times', 1e4), twist.get('weights', 50.)
        self.rate, self.drift = twist.get('rate', 100.), twist.get('drift', 1.02)

    def multiply(self, by):
        with torch.no_grad():
            for p in self.model.get_submodule(self.layer).parameters():
                if p.dim() > 1 or self.layer.endswith('norm'): p.mul_(by)

    def spoil(self, x):
        x = x.clone()
        if self.kind == 'batch': return x*self.times
        x[len(x)//2].view(-1)[0] = float('nan')
        return x

    def before_batch(self):
        if not self.training: return
        self.n += 1
        if self.kind == 'layer' and self.n == self.step: self.multiply(self.weights)
        if self.kind == 'drift' and self.n >= self.step: self.multiply(self.drift)
        if self.kind == 'learning rate':
            if self.n == self.step: self.usual = [h['lr'] for h in self.opt.hypers]
            if self.step <= self.n < self.step + 5: self.opt.set_hyper('lr', [lr*self.rate for lr in self.usual])
            elif self.n == self.step + 5: self.opt.set_hyper('lr', self.usual)
        if self.kind not in ('batch', 'non-finite') or self.n != self.step: return
        x = self.xb[0]
        if x.is_floating_point(): self.learn.xb = (self.spoil(x),)
        else:  # token ids cannot be multiplied: what the embedding makes of this batch is
            self.hook = self.model.words.register_forward_hook(lambda m, i, o: self.spoil(o), prepend=True)

    def after_batch(self):
        if self.__dict__.get('hook'):
            self.hook.remove()
            self.hook = None

def planned(name, event, seed, twist):
    "What the fault will be: step and layer"
    rng = random.Random(f'{name} {event} {seed}')
    first, last = twist.get('at', (80, 190))
    step, layer = rng.randint(first, last), rng.choice(LAYERS[name])
    if event == 'drift': step = twist.get('drift_from', DRIFT_FROM)
    if event in ('batch', 'non-finite'): layer = 'words' if name.startswith('LSTM') else 'input'
    if event in ('learning rate', None): layer = ''
    return step, layer

def train(name, event, seed, twist, cbs=()):
    "The learner after a run with this fault in it, or with none"
    step, layer = planned(name, event, seed, twist)
    set_seed(seed)
    dls, model = network(name)
    for dl in dls: dl.rng.seed(seed)
    fault = [Fault(event, step, layer, twist)] if event else []
    learn = quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), opt_func=Adam, cbs=[ActStats(), *cbs, *fault]))
    epochs = STEPS//len(dls.train)
    if seed % 2: learn.fit_one_cycle(epochs, 2*RATES[name])
    else: learn.fit(epochs, RATES[name])
    return learn

# judging

def right(event, step, layer, found):
    "Are kind, step and layer those of the fault? `found`: rows of an explanation's table"
    if event is None: return not found
    if not found: return False
    first = found[0]
    near = abs(first['step'] - step) <= (20 if event == 'drift' else 2)
    where = first['layer'] in ({'input', 'words'} if layer in ('input', 'words') and event != 'layer' else {layer})
    if event == 'learning rate': where = True
    return first['kind'] == event and near and where

def cases(seeds, names):
    for name in names:
        for event in EVENTS:
            for seed in seeds: yield name, event, seed
    for i, name in enumerate(names):
        for seed in list(seeds)[:4 if not i else 3]: yield name, None, 100 + seed

def run(seeds, names, twist, folder):
    "One result a case"
    for name, event, seed in progress_bar(list(cases(seeds, names)), leave=False):
        kept = folder and folder/f"{name}.{event}.{seed}.{twist}.npz".replace(' ', '_')
        if kept and kept.exists(): rec = Record.load(kept)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                rec = train(name, event, seed, TWISTS[twist]).act_stats.record
            if kept: rec.save(kept)
        step, layer = planned(name, event, seed, TWISTS[twist])
        said = rec.explain()
        found = said.df[['kind', 'step', 'layer']].to_dict('records')
        yield dict(network=name, event=event, seed=seed, step=step, layer=layer, found=found, said=str(said),
                   right=right(event, step, layer, found))

def table(results):
    "Right ones of each network and event, and every miss"
    some = [r for r in results if r['event']]
    lines = ["| network | " + ' | '.join(EVENTS) + ' | healthy |', '|---'*(len(EVENTS) + 2) + '|']
    for name in dict.fromkeys(r['network'] for r in results):
        cells = []
        for event in (*EVENTS, None):
            own = [r['right'] for r in results if (r['network'], r['event']) == (name, event)]
            cells.append(f"{sum(own)} of {len(own)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ['', f"{sum(r['right'] for r in some)} of {len(some)} runs with a fault: kind, step and layer are right."]
    missed = [r for r in results if not r['right']]
    if missed: lines += ['', 'Missed:', '']
    for r in missed:
        said = '; '.join(f"{f['kind']} {f['layer']} at step {f['step']}" for f in r['found'][:2]) or 'nothing'
        what = f"{r['event']} {r['layer']} at step {r['step']}" if r['event'] else 'healthy'
        lines.append(f"- {r['network']}, seed {r['seed']}: {what}; it said: {said}")
    return '\n'.join(lines)

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--records', type=Path, help='folder where records are kept and looked for')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2, 3, 4])
    parser.add_argument('--networks', nargs='+', choices=[*NETWORKS, *OTHERS], default=NETWORKS)
    parser.add_argument('--twist', choices=TWISTS, default='')
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.records: args.records.mkdir(parents=True, exist_ok=True)
    results = list(run(args.seeds, args.networks, args.twist, args.records))
    print(table(results))
    usual = (tuple(args.networks), args.twist, args.seeds) == (NETWORKS, '', [0, 1, 2, 3, 4])
    file = HERE/'results'/('explain.json' if usual else f"explain_{args.twist or 'others'}.json")
    file.write_text(json.dumps(dict(machine=machine(), rows=results), indent=1) + '\n')

if __name__ == '__main__': main()
