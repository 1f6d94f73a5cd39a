"""What each observing callback adds to training: `python bench/observers.py`

The reference CNN on the demo's digits, epochs of runs in turn so that a busy machine is as unkind to all of them."""
import time

import numpy as np
import pandas as pd
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed

from measure import write

from fastai_actstats.all import ActStats, DeadUnits, GradStats, WeightStats
from fastai_actstats.demo import digits, reference_cnn

RUNS = {'none': lambda: [], 'ActStats': lambda: [ActStats()], 'GradStats': lambda: [GradStats()], 'WeightStats': lambda: [WeightStats()],
        'WeightStats(every=10)': lambda: [WeightStats(every=10)], 'DeadUnits': lambda: [DeadUnits()],
        'all four': lambda: [ActStats(), GradStats(), WeightStats(), DeadUnits()]}

def main(rounds=5):
    torch.set_num_threads(1)
    dls = digits()
    learners = {}
    for name, make in RUNS.items():
        set_seed(42)
        learners[name] = Learner(dls, reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=make())
    times = {name: [] for name in RUNS}
    for i in range(rounds + 1):  # the first round compiles kernels
        for name, learn in learners.items():
            with learn.no_bar(), learn.no_logging():
                start = time.process_time()
                learn.fit(1, 1e-3)
                if i: times[name].append(time.process_time() - start)
    best = {name: np.median(t) for name, t in times.items()}
    steps = len(dls.train)
    write('observers', [{'watched by': n, 'ms a step': 1000*t/steps, 'ms added a step': 1000*(t - best['none'])/steps, 'added': t/best['none'] - 1}
                        for n, t in best.items()])
    print(pd.DataFrame({'seconds an epoch': best, 'ms added a step': {n: 1000*(t - best['none'])/len(dls.train) for n, t in best.items()},
                        'added': {n: f"{t/best['none'] - 1:.0%}" for n, t in best.items()}}).round(2).to_string())

if __name__ == '__main__': main()
