"""Memory, time a step and read-out against steps, layers and capacity: `python bench/scaling.py`

Ours keeps a ring of fixed size; fastai's `ActivationStats(with_hist=True)` four numbers and 40 bins a step and layer;
the classic recipe every activation. Each is filled in a process of its own, with the outputs of an identity, 128
values each; memory is by how much the process grew."""
import os
import statistics
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pandas as pd
import torch
from fastai.basics import L
from fastai.callback.hook import ActivationStats
from fastprogress.fastprogress import progress_bar
from measure import between, numbers, write
from torch import nn

from fastai_actstats.callbacks.hooks import Tap
from fastai_actstats.core.accumulator import Recorder
from fastai_actstats.kernels.bins import Bins

X, NET = torch.randn(16, 8), nn.Identity()

class Ours:
    def __init__(self, layers, capacity):
        self.recorder = Recorder(Bins(), capacity)
        self.recorder.prepare([str(i) for i in range(layers)], torch.device('cpu'))
        self.taps = [Tap(self.recorder, str(i)) for i in range(layers)]
    def step(self):
        self.recorder.open(True)
        for t in self.taps: t(NET, (), X)
        self.recorder.close((0, 0))
    def read(self): return self.recorder.record.mean, self.recorder.record.hist

class Fastai:
    def __init__(self, layers, capacity):
        self.callback, self.layers, self.stats = ActivationStats(with_hist=True), layers, L()
    def step(self): self.stats.append(L(self.callback.hook(NET, (), X) for _ in range(self.layers)))
    def read(self):
        layers = [self.stats.itemgot(i) for i in range(self.layers)]
        return [o.itemgot('mean') for o in layers], [torch.stack(list(o.itemgot('hist'))) for o in layers]

class Everything:
    def __init__(self, layers, capacity): self.layers, self.kept = layers, []
    def step(self): self.kept.append([X.clone() for _ in range(self.layers)])
    def read(self):
        layers = [torch.stack(o) for o in zip(*self.kept)]
        return [o.mean((1, 2)) for o in layers], [torch.stack([v.histc(40, -10, 10) for v in o]) for o in layers]

WAYS = {'ours': Ours, 'fastai': Fastai, 'every activation': Everything}

def resident(): return int(open('/proc/self/statm').read().split()[1])*os.sysconf('SC_PAGE_SIZE')/2**20

def measure(way, steps, layers, capacity):
    "In a process of its own: MiB that it grew by, median microseconds of the last 500 steps, seconds of reading"
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    first = WAYS[way](1, 2)
    for _ in range(5): first.step()  # what is loaded once, also for merging, is not counted
    before, times = resident(), []
    it = WAYS[way](layers, capacity)
    for _ in range(steps):
        start = time.perf_counter()
        it.step()
        times.append(time.perf_counter() - start)
        del times[:-500]
    grown, start = resident() - before, time.perf_counter()
    it.read()
    return {'MiB': grown, 'us a step': statistics.median(times)*1e6, 'us, quartiles': between([t*1e6 for t in times]),
            'read, s': time.perf_counter() - start}

def main():
    torch.set_num_threads(1)
    sizes = [(n, 5) for n in numbers('steps')] + [(1024, n) for n in numbers('layers')]
    runs = [(way, *size, c) for size in dict.fromkeys(sizes) for way in WAYS
            for c in (numbers('capacities') if way == 'ours' else [0])]
    rows = []
    for run in progress_bar(runs):
        with ProcessPoolExecutor(1, get_context('fork')) as one: got = one.submit(measure, *run).result()
        rows.append(dict(zip(('way', 'steps', 'layers', 'capacity'), run)) | got)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('scaling', rows)

if __name__ == '__main__': main()
