"""What it takes to compare many runs: `python bench/many.py`

Thirty files of 50 layers by 1,024 columns are written; a process of its own compares them, for its processor time and
its largest resident set. Writes `bench/results/many.json`, from which `bench/page.py` makes the page's table."""
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

RUNS, LAYERS, COLUMNS, DISTINCT = 30, 50, 1024, 32

def made_up(seed, lr):
    "A record of drifting distributions over 1,024 columns, with a loss"
    from fastai_actstats.all import Bins, Record
    from fastai_actstats.core.columns import COLUMN
    from fastai_actstats.core.summary import Summary
    rng, bins = np.random.default_rng(seed), Bins()
    columns = np.zeros(COLUMNS, COLUMN)
    columns['first'] = columns['last'] = np.arange(COLUMNS)
    columns['epoch'] = columns['last_epoch'] = np.arange(COLUMNS)//128
    columns['steps'] = 1
    width = rng.normal(1, .05, LAYERS) + lr*np.linspace(0, 1, DISTINCT)[:, None]
    x = torch.from_numpy(rng.normal(size=(LAYERS, 256))).float()
    rows = torch.stack([torch.stack([Summary.of(o*w, bins).rows for o, w in zip(x, row)]) for row in width])
    rows = rows.repeat(COLUMNS//DISTINCT, 1, 1)
    loss = torch.stack([Summary.of(torch.tensor([2 - lr - t/COLUMNS]), bins).rows[None] for t in range(COLUMNS)])
    run = Record(loss, columns, ['loss'], bins, 'run')
    names = [f'blocks.{i//5}.conv{i % 5}' for i in range(LAYERS)]
    made = dict(fits=[dict(epochs=8, lr=lr)])
    info = {n: dict(type='Conv2d', shape=(64, 8, 8)) for n in names}
    return Record(rows, columns, names, bins, made=made, info=info, run=run)

def compared(folder):
    "Runs in a process of its own: rows of what each part took"
    import matplotlib
    matplotlib.use('agg')
    from fastai_actstats import compare
    rows = []
    def took(what, f):
        cpu, wall = time.process_time(), time.perf_counter()
        res = f()
        rows.append({'what': what, 'processor, s': time.process_time() - cpu, 'wall, s': time.perf_counter() - wall,
                     'largest resident set so far, MB': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024})
        return res
    both = took("compare('sweep/*.npz', by='lr')", lambda: compare(f'{folder}/*.npz', by='lr'))
    took('.table()', both.table)
    took('.effects()', both.effects)
    took('.report()', both.report)
    took('.overview()', lambda: both.overview().savefig(f'{folder}/a.png'))
    took('.plot_stats()', lambda: both.plot_stats().savefig(f'{folder}/b.png'))
    took('.color_dim()', lambda: both.color_dim().savefig(f'{folder}/c.png'))
    print(json.dumps(rows))

def measure():
    from measure import write
    with tempfile.TemporaryDirectory() as folder:
        for i in range(RUNS):
            made_up(i, (.01, .05, .2)[i % 3]).save(Path(folder)/f'run{i:02}.npz')
        done = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    whole = {k: sum(row[k] for row in rows) for k in ('processor, s', 'wall, s')}
    peak = rows[-1]['largest resident set so far, MB']
    write('many', [*rows, {'what': 'all of it', **whole, 'largest resident set so far, MB': peak}])

if __name__ == '__main__': compared(*sys.argv[1:]) if sys.argv[1:] else measure()
