"""What each observing callback adds to training: `python bench/observers.py`

The reference CNN on the demo's digits, epochs of runs in turn so that a busy machine is as unkind to all of them."""
import time

import pandas as pd
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from measure import added, alternate, quiet, settings, write

from fastai_actstats.all import ActStats, DeadUnits, GradStats, WeightStats
from fastai_actstats.demo import digits, reference_cnn

RUNS = {'none': lambda: [], 'ActStats': lambda: [ActStats()], 'GradStats': lambda: [GradStats()],
        'WeightStats': lambda: [WeightStats()], 'WeightStats(every=10)': lambda: [WeightStats(every=10)],
        'DeadUnits': lambda: [DeadUnits()],
        'all four': lambda: [ActStats(), GradStats(), WeightStats(), DeadUnits()]}

def main():
    torch.set_num_threads(1)
    dls, ways = digits(), {}
    for name, make in RUNS.items():
        set_seed(42)
        learn = quiet(Learner(dls, reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=make()))
        ways[name] = lambda learn=learn: learn.fit(1, 1e-3)
    times = alternate(ways, settings().getint('training_rounds'), time.process_time)
    ms = {name: [1e3*s/len(dls.train) for s in t] for name, t in times.items()}
    rows = [{'watched by': name} | added(t, ms['none']) for name, t in ms.items()]
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('observers', rows)

if __name__ == '__main__': main()
