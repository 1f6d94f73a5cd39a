"""Trains the programs, sane and mutated, and keeps what was recorded, so that rules are judged without training again.

`python -m bench.programs` trains what is missing under `bench/programs/runs` (ignored by git) and writes
`bench/results/programs.json`: of each run the half it belongs to, the mutation, what it is worth. It can be stopped and
goes on where it was; names of programs as arguments: only these. `--list` says what there is and trains nothing.

*Halves.* A shuffle with a seed of its own puts half of the programs of each kind, and the odd ones in turn, into the
first half, on which thresholds are set; the second half judges.

*Healthy runs.* A program by three seeds by three learning rates (a third, one, three times its own). One counts as
healthy where its worth rises over what its weights were worth before by at least half of what the best of the
program's runs gains: it trains.

*Faulty runs.* Of each program six mutations that apply to it and can be seen, and one that cannot, drawn so that all
mutations come about equally often; three seeds each. A pair counts as a fault where mutation hurts: over the three
seeds, the best mutated run is worth less than the worst sane one, and their means are apart by a tenth of what the
sane runs gain over their untrained weights."""
from __future__ import annotations

import argparse
import json
import random
import warnings
from collections import Counter
from pathlib import Path

import torch
from fastai.basics import Callback, CancelFitException, set_seed
from fastprogress import progress_bar

from fastai_actstats.callbacks.activations import ActStats
from fastai_actstats.callbacks.channels import DeadUnits
from fastai_actstats.callbacks.gradients import GradStats
from fastai_actstats.callbacks.weights import WeightStats

from .mutations import MUTATIONS, times
from .programs import PROGRAMS, make

RUNS = Path(__file__).parent/'runs'
RESULTS = Path(__file__).parent.parent/'results'/'programs.json'
SEEDS = 0, 1, 2
RATES = {'third': 1/3, 'own': 1, 'triple': 3}

def halves():
    "Program → 'first' or 'second'"
    rng, res, turn = random.Random(20), {}, 0
    for kind in sorted({k for k, _ in PROGRAMS.values()}):
        names = sorted(n for n, (k, _) in PROGRAMS.items() if k == kind)
        rng.shuffle(names)
        for name in names:
            res[name] = ('first', 'second')[turn % 2]
            turn += 1
    return res

def pairs(seen=6, unseen=1):
    "(program, mutation) that are tried"
    rng, used, res = random.Random(21), Counter(), []
    for name in sorted(PROGRAMS):
        fits = [m for m in MUTATIONS if MUTATIONS[m].apply(make(name, 0)) is not None]
        for can_be_seen, n in ((True, seen), (False, unseen)):
            some = [m for m in fits if MUTATIONS[m].seen == can_be_seen]
            rng.shuffle(some)
            chosen = sorted(some, key=lambda m: used[m])[:n]
            used.update(chosen)
            res += [(name, m) for m in chosen]
    return res

class Stops(Callback):
    "Ends a run whose loss is no number for twenty steps: what there is to see has been seen"
    order = 80
    def before_fit(self): self.bad = 0
    def after_batch(self):
        if not self.training: return
        self.bad = 0 if self.loss.isfinite() else self.bad + 1
        if self.bad >= 20: raise CancelFitException

def watchers(): return dict(activations=ActStats(), gradients=GradStats(), weights=WeightStats(), units=DeadUnits())

def train(name, seed, mutation=None, rate=1):
    "One run: its learner, its watchers, and what is known of it"
    program = make(name, seed)
    program.lr = times(program.lr, rate)
    before = program.worth(program.learner())
    where = MUTATIONS[mutation].apply(program) if mutation else None
    seen = watchers()
    learn = program.learner([*seen.values(), Stops()])
    set_seed(seed)
    program.train(learn)
    losses = [float(o) for o in learn.recorder.losses]
    return learn, seen, dict(program=name, kind=PROGRAMS[name][0], half=halves()[name], seed=seed, mutation=mutation,
                             rate=rate, where=where, before=before, worth=program.worth(learn), losses=losses)

def keep(folder, seen, known):
    folder.mkdir(parents=True, exist_ok=True)
    for name, cb in seen.items():
        try: records = cb.records
        except Exception: continue
        for rec in records:
            if len(rec.layers): rec.save(folder/f'{name}.{rec.what}.npz')
    (folder/'run.json').write_text(json.dumps(known))

def wanted(programs):
    "Every run that is due: folder's name → arguments of `train`"
    for name in sorted(PROGRAMS):
        for label, rate in RATES.items():
            for seed in SEEDS: yield f'{name}.{label}.{seed}', dict(name=name, seed=seed, rate=rate)
    for name, mutation in pairs():
        for seed in SEEDS: yield f'{name}.{mutation}.{seed}', dict(name=name, seed=seed, mutation=mutation)

def judged(runs):
    "Of each run: `healthy`, `hurts` or neither"
    of = {}
    for r in runs: of.setdefault(r['program'], []).append(r)
    for rows in of.values():
        sane = [r for r in rows if not r['mutation']]
        worth = [r['worth'] for r in sane if r['worth'] == r['worth']]
        for r in sane: r['healthy'] = r['worth'] - r['before'] >= (max(worth, default=0.) - r['before'])/2 > 0
        own = [r for r in sane if r['rate'] == 1]
        for mutation in {r['mutation'] for r in rows} - {None}:
            ill = [r for r in rows if r['mutation'] == mutation]
            bad = [r['worth'] if r['worth'] == r['worth'] else -float('inf') for r in ill]
            mean = sum(r['worth'] for r in own)/len(own)
            gain = mean - sum(r['before'] for r in own)/len(own)
            hurts = max(bad) < min(r['worth'] for r in own) and mean - sum(bad)/len(bad) > .1*gain
            for r in ill: r['hurts'], r['seen'] = hurts, MUTATIONS[mutation].seen
    return runs

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--list', action='store_true', help='what there is, without training')
    parser.add_argument('programs', nargs='*', help='only these')
    args = parser.parse_args()
    if args.list:
        for name, half in halves().items(): print(f"{half:7} {PROGRAMS[name][0]:20} {name}")
        for name, mutation in pairs(): print(f"{name:20} {mutation}")
        return
    torch.set_num_threads(1)
    due = [(k, v) for k, v in wanted(args.programs) if not args.programs or v['name'] in args.programs]
    for key, how in progress_bar(due):
        if (RUNS/key/'run.json').exists(): continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: _, seen, known = train(**how)
            except Exception as e: raise RuntimeError(f"{key}: {e}") from e
        keep(RUNS/key, seen, known)
    if args.programs: return
    runs = judged([json.loads((RUNS/k/'run.json').read_text()) | dict(run=k) for k, _ in due])
    for r in runs: r['losses'] = [r['losses'][0], r['losses'][-1]] if r['losses'] else []
    RESULTS.write_text(json.dumps(runs, indent=1) + '\n')

if __name__ == '__main__': main()
