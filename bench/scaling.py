"""Memory and read-out against steps, layers and capacity: `python bench/scaling.py`

Ours keeps a ring of fixed size; fastai's `ActivationStats(with_hist=True)` four numbers and 40 bins a step and layer; the classic
recipe every activation. The last two are worked out from what they keep."""
import time

import pandas as pd
import torch
from fastprogress.fastprogress import progress_bar
from measure import numbers, spread, write
from torch import nn

from fastai_actstats.bins import Bins
from fastai_actstats.recorder import Recorder
from fastai_actstats.watch import Tap

FASTAI_BYTES = 3*24 + 40*4 + 64 + 232  # three Python floats, 40 float32, a tensor object and a dict, a step and layer

def filled(layers, capacity, steps, x):
    recorder = Recorder(Bins(), capacity)
    recorder.prepare([str(i) for i in range(layers)], torch.device('cpu'))
    net, taps, times = nn.Identity(), [Tap(recorder, str(i)) for i in range(layers)], []
    for step in range(steps):
        start = time.perf_counter()
        recorder.open(True)
        for t in taps: t(net, (), x)
        recorder.close((0, 0))
        times.append(time.perf_counter() - start)
    return recorder, times

def main():
    x, rows = torch.randn(16, 8), []
    runs = [(n, 5, c) for n in numbers('steps') for c in numbers('capacities')] + [(1024, l, 1024) for l in numbers('layers')] + [(1024, 50, 1024)]
    for steps, layers, capacity in progress_bar(list(dict.fromkeys(runs))):
        recorder, times = filled(layers, capacity, steps, x)
        start = time.perf_counter()
        record = recorder.record
        record.mean, record.hist
        read = time.perf_counter() - start
        rows.append({'steps': steps, 'layers': layers, 'capacity': capacity, 'columns': len(record), 'ring, MiB': recorder.nbytes/2**20,
                     'fastai, MiB': steps*layers*FASTAI_BYTES/2**20, 'every activation, MiB': steps*layers*x.nbytes/2**20,
                     'us a step': spread(times[-min(500, steps):])['median']*1e6, 'read, s': read})
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('scaling', rows)

if __name__ == '__main__': main()
