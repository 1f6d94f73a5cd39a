"""What `SaveRecord(seconds=60)` and `CatchBatch` cost training: `python bench/saving.py`

A full ring of 1,024 columns is written now and then. Timed are their own events in the thread that trains, and the
processor time of the thread that writes; from these follows the share of training at one write in 60 seconds."""
import statistics
import tempfile
import time

import pandas as pd
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, set_seed
from measure import quiet, write
from torch import nn

from fastai_actstats.all import ActStats, CatchBatch, SaveRecord
from fastai_actstats.demo import digits, reference_cnn

SECONDS, COLUMNS, TRIES = 60, 1024, 7

def many_layers(n=60):
    "A model whose record is large, and whose step is short"
    x, y = torch.randn(3200, 64), torch.arange(3200) % 10
    data = torch.utils.data.TensorDataset(x, y)
    dls = DataLoaders.from_dsets(data, data, bs=32, num_workers=0, device=torch.device('cpu'))
    return dls, nn.Sequential(*[m for _ in range(n - 1) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 10))

RUNS = {'reference CNN': lambda: (digits(), reference_cnn(True)), '60 linear layers': many_layers}

class Train(Callback):
    "Seconds of each training step"
    order = 99
    def before_fit(self): self.steps, self.last = [], None
    def after_batch(self):
        now = time.perf_counter()
        if self.training and self.last: self.steps.append(now - self.last)
        self.last = now if self.training else None

class Timed:
    "Seconds spent in the events of a callback, one entry a call of `name`"
    def __init__(self, cb, names):
        self.spent = 0.
        for name in names: setattr(cb, name, self.wrap(getattr(cb, name)))
    def wrap(self, real):
        def run(*args):
            start = time.perf_counter()
            try: return real(*args)
            finally: self.spent += time.perf_counter() - start
        return run

def main():
    torch.set_num_threads(1)
    rows = []
    for name, make in RUNS.items():
        set_seed(42)
        dls, model = make()
        stats, save, catch = ActStats(capacity=COLUMNS), SaveRecord(seconds=None), CatchBatch()
        learn = quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), path=tempfile.mkdtemp(),
                              cbs=[stats, save, catch]))
        learn.fit(1, 1e-3)
        acc = stats.accumulator
        ring, column = acc.rings[False], acc.rings[False].rows[0].clone()
        while len(ring) < COLUMNS - 2*len(dls.train):  # as if it had been trained for so long
            ring.push(column, acc.step)
            acc.batch.step += 1
        in_save = Timed(save, ['after_batch'])
        in_catch = Timed(catch, ['before_batch', 'after_pred', 'after_loss', 'after_backward', 'after_step',
                                 'after_batch'])
        learn.add_cb(stop := Train())
        save.seconds = 1e6  # asks the clock, and writes nothing yet
        learn.fit(2, 1e-3)
        n = len(stop.steps)
        step, each, catches = statistics.median(stop.steps), in_save.spent/n, in_catch.spent/n
        waits, works = [], []
        real = save._write_all
        def in_thread(jobs, real=real, works=works):
            start = time.thread_time()
            real(jobs)
            works.append(time.thread_time() - start)
        save._write_all = in_thread
        for _ in range(TRIES):
            save._last.clear()
            stats.accumulator._cache = None  # as after a batch
            start = time.perf_counter()
            save.write(share=True, wait=False)
            waits.append(time.perf_counter() - start)
            save._finish()
        wait, work = statistics.median(waits), statistics.median(works)
        rec = stats.record
        rows.append({'model': name, 'layers': len(rec.layers), 'columns': len(rec), 'ms a step': 1e3*step,
                     'SaveRecord each step, us': 1e6*each, 'a write: training waits, ms': 1e3*wait,
                     'a write: its thread, ms': 1e3*work,
                     'share of training': each/step + wait/SECONDS,
                     'with the thread': each/step + (wait + work)/SECONDS,
                     'CatchBatch each step, us': 1e6*catches, 'CatchBatch, share': catches/step})
    print(pd.DataFrame(rows).round(4).T.to_string())
    write('saving', rows)

if __name__ == '__main__': main()
