"""What `ChannelStats` adds to training beside `ActStats`, and what it holds: `python bench/channels.py`

Processor time of one thread, epochs in alternation: the reference CNN on the demo's digits, a ResNet-18 and a small
transformer on random inputs. Then the reading and drawing of two layers with 50,000 channels together."""
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import matplotlib
import pandas as pd
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from measure import added, alternate, quiet, settings, write
from training import models

from fastai_actstats.all import ActStats, ChannelStats, Record
from fastai_actstats.kernels.channels import fold_channels

WATCHERS = {'plain': lambda: [], 'ActStats': lambda: [ActStats()], 'ChannelStats': lambda: [ChannelStats()],
            'ChannelStats(every=1)': lambda: [ChannelStats(every=1)]}

def cost(name, make, data, rounds):
    "Rows: what each adds, and that over what `ActStats` adds"
    ways, held = {}, {}
    for watcher, cbs in WATCHERS.items():
        set_seed(42)
        learn = quiet(Learner(data, make(), loss_func=CrossEntropyLossFlat(), cbs=cbs()))
        held[watcher] = learn
        ways[watcher] = lambda learn=learn: learn.fit(1, 1e-3)
    times = alternate(ways, rounds, time.process_time)
    ms = {watcher: [1e3*s/len(data.train) for s in t] for watcher, t in times.items()}
    more = {watcher: [a - b for a, b in zip(t, ms['plain'])] for watcher, t in ms.items()}
    rows = []
    for watcher, t in ms.items():
        row = {'model': name, 'watched by': watcher} | added(t, ms['plain'])
        row['of ActStats'] = median(more[watcher])/median(more['ActStats'])
        if watcher.startswith('Channel'):
            row['held, MB'] = held[watcher].channel_stats.accumulator.nbytes/1e6
        rows.append(row)
    return rows

def large(channels=25_000, columns=64):
    "Seconds that it takes to read, save, load and draw two layers of so many channels"
    stats = ChannelStats(every=1)
    acc, x = stats.accumulator, torch.randn(8, channels).relu()
    acc.add_layers([], torch.device('cpu'))
    for _ in range(columns):
        acc.begin_batch(True)
        for n in ('a', 'b'):
            acc.info.setdefault(n, dict(type='ReLU', kind='relu', shape=(8, channels), axis=1))
            fold_channels(x + torch.rand(1), 1, acc.channels(n, n, channels), (2.**-149, float('inf')))
        acc.filled = True
        acc.end_batch((0, 0))
    took, file = {}, Path(tempfile.mkdtemp())/'channels.npz'
    def timed(name, do):
        start = time.perf_counter()
        res = do()
        took[name] = time.perf_counter() - start
        return res
    rec = timed('read', lambda: stats.record)
    timed('saved', lambda: rec.save(file))
    timed('loaded', lambda: Record.load(file))
    timed('report', rec.report)
    timed('table', rec.table)
    def drawn(picture): picture().savefig(file.with_suffix('.png'))
    timed('plot', lambda: drawn(rec.plot))
    timed('channel_map', lambda: drawn(lambda: rec.channel_map('a', sort='final')))
    timed('plot_dead', lambda: drawn(rec.plot_dead))
    timed('heatmap', lambda: drawn(rec.heatmap))
    return [dict(what=f'{2*channels:,} channels, {columns} columns: {k}', seconds=v) for k, v in took.items()]

def main():
    warnings.filterwarnings('ignore')
    matplotlib.use('agg')
    torch.set_num_threads(1)
    rounds = settings().getint('training_rounds')
    read = large()
    print(pd.DataFrame(read).round(2).to_string(index=False), flush=True)
    rows = [row for name, (make, data) in models().items() for row in cost(name, make, data, rounds)]
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('channels', rows + read)

if __name__ == '__main__': main()
