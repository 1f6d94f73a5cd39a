"""What `SaveRecord(seconds=60)` and `CatchBatch` cost training: `python bench/saving.py`

A full ring of 1,024 columns is written now and then. Of `SaveRecord`, its own events in the thread that trains are
timed, and the processor time of the thread that writes; from these follows the share of training at one write in 60
seconds. Of `CatchBatch`, the processor time of its own events, and what it adds to that of epochs in alternation,
beside `ActStats` in both."""
import statistics
import tempfile
import time
from functools import partial

import pandas as pd
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoaders, Learner, set_seed
from measure import added, alternate, quiet, write
from torch import nn

from fastai_actstats.all import ActStats, CatchBatch, SaveRecord
from fastai_actstats.demo import digits, reference_cnn

SECONDS, COLUMNS, TRIES, ROUNDS = 60, 1024, 5, 5

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
    def __init__(self, cb, names, clock=time.perf_counter):
        self.spent, self.clock = 0., clock
        for name in names: setattr(cb, name, self.wrap(getattr(cb, name)))
    def wrap(self, real):
        def run(*args):
            start = self.clock()
            try: return real(*args)
            finally: self.spent += self.clock() - start
        return run

def catching(make):
    "What `CatchBatch` adds to a step, by processor time"
    ways, n = {}, 0
    for name, more in ('without', lambda: []), ('with', lambda: [CatchBatch()]):
        set_seed(42)
        dls, model = make()
        learn = quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), path=tempfile.mkdtemp(),
                              cbs=[ActStats(capacity=COLUMNS), *more()]))
        ways[name], n = partial(learn.fit, 1, 1e-3), len(dls.train)
    ms = {name: [1e3*s/n for s in t] for name, t in alternate(ways, ROUNDS, time.process_time).items()}
    events = ['before_batch', 'after_loss', 'after_backward', 'after_step', 'after_batch']
    spent = Timed(learn.catch_batch, events, time.thread_time)
    start = time.process_time()
    learn.fit(2, 1e-3)
    step, each = (time.process_time() - start)/(2*n), spent.spent/(2*n)
    more = added(ms['with'], ms['without'])
    return {'CatchBatch, its own events, us a step': 1e6*each, 'their share': each/(step - each),
            'epochs with CatchBatch, ms a step': more['ms a step'], 'it adds, ms': more['adds, ms'],
            'it adds, quartiles': more['adds, quartiles'], 'it adds': more['adds']}

def main():
    torch.set_num_threads(1)
    rows = []
    for name, make in RUNS.items():
        set_seed(42)
        dls, model = make()
        stats, save = ActStats(capacity=COLUMNS), SaveRecord(seconds=None)
        learn = quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), path=tempfile.mkdtemp(),
                              cbs=[stats, save]))
        learn.fit(1, 1e-3)
        acc = stats.accumulator
        ring, column = acc.rings[False], acc.rings[False].rows[0].clone()
        while len(ring) < COLUMNS - 2*len(dls.train):  # as if it had been trained for so long
            ring.push(column, acc.step)
            acc.batch.step += 1
        in_save = Timed(save, ['after_batch'])
        learn.add_cb(stop := Train())
        save.seconds = 1e6  # asks the clock, and writes nothing yet
        learn.fit(2, 1e-3)
        n = len(stop.steps)
        step, each = statistics.median(stop.steps), in_save.spent/n
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
                     'with the thread': each/step + (wait + work)/SECONDS} | catching(make))
    print(pd.DataFrame(rows).round(4).T.to_string())
    write('saving', rows)

if __name__ == '__main__': main()
