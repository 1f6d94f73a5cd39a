"""Where the time of ActStats goes: `python bench/breakdown.py`

The loops of the CPU kernel, each over a slice in the first-level cache; and the parts of a training step of the
reference CNN with ActStats, timed where they run. One thread, medians."""
import time
from collections import defaultdict
from statistics import median

import numba as nb
import numpy as np
import pandas as pd
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from measure import settings, timed, write

from fastai_actstats.all import ActStats
from fastai_actstats.callbacks.hooks import Tap
from fastai_actstats.core.accumulator import Recorder
from fastai_actstats.demo import digits, reference_cnn
from fastai_actstats.kernels import cpu
from fastai_actstats.kernels.bins import Bins

TIMES = 1000  # that a loop goes over its slice

@nb.njit
def bits(v, slots, counts, rule):  # what these find is used, or the compiler would leave them out
    for _ in range(TIMES):
        near, low, high = cpu._bits(v.view(np.int32), nb.int32(rule[3]))
        counts[0, 0] += near + low + high
@nb.njit
def moments(v, slots, counts, rule):
    for _ in range(TIMES): counts[0, 0] += int(cpu._moments(v)[1])
@nb.njit
def linear(v, slots, counts, rule):
    for _ in range(TIMES):
        cpu._linear_slots(v, nb.float32(rule[0]), nb.float32(rule[1]), nb.float32(rule[2]), int(rule[4]), slots)
@nb.njit
def tally(v, slots, counts, rule):
    for _ in range(TIMES): cpu._tally(slots, counts)

LOOPS = {'near-zero, minimum, maximum': bits, 'moments': moments, 'bin of each value': linear, 'counting': tally}

def kernel(rounds):
    bins = Bins.linear(80, (-10., 10.))
    v, slots, counts = torch.randn(cpu.SLICE).numpy(), np.empty(cpu.SLICE,
                                                                np.int32), np.zeros((cpu.WAYS, bins.n + 2), np.int64)
    rule, times = np.array(bins.rule[:5], float), defaultdict(list)
    for i in range(rounds + 1):
        for name, loop in LOOPS.items():
            start = time.perf_counter()
            loop(v, slots, counts, rule)
            if i: times[name].append((time.perf_counter() - start)/TIMES/cpu.SLICE*1e9)
    return [{'part': f'kernel: {name}', 'each': f'{median(t):.2f} ns a value'} for name, t in times.items()]

def step(rounds):
    parts = {name: [] for name in ('step', 'hooks', 'kernel', 'commit')}
    for owner, name, part in ((Tap, '__call__', 'hooks'), (cpu, 'reduce_', 'kernel'), (Recorder, 'close', 'commit')):
        timed(owner, name, parts[part])
    class Step(ActStats):
        def before_batch(self):
            super().before_batch()
            for times in parts.values(): times.append(0.)
            self.start = time.perf_counter()
        def after_batch(self):
            super().after_batch()
            parts['step'][-1] = time.perf_counter() - self.start
            if not self.training:
                for times in parts.values(): times.pop()
    set_seed(42)
    learn = Learner(digits(), reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=Step())
    with learn.no_bar(), learn.no_logging(): learn.fit(rounds, 1e-3)
    ms = {name: 1e3*median(times[len(times)//rounds:]) for name, times in parts.items()}
    ms['hooks'] -= ms['kernel']
    return [{'part': f"step of the reference CNN: {name}", 'each': f'{t:.3f} ms'} for name, t in
            {'whole': ms['step'], 'kernel, 9 layers': ms['kernel'], 'hooks around it': ms['hooks'],
             'commit': ms['commit']}.items()]

def main():
    torch.set_num_threads(1)
    rounds = settings().getint('rounds')
    rows = kernel(rounds) + step(rounds)
    print(pd.DataFrame(rows).to_string(index=False))
    write('breakdown', rows)

if __name__ == '__main__': main()
