"""This tree against another commit, in one run: `python bench/against.py REVISION [ROUNDS [WORDS]]`

One process for each of the two trees, kept waiting between its turns: processor time of one thread for a training
step of the reference CNN without watchers, with `ActStats` and with all four observers, and for a reduction. Turns
alternate, so that a busy machine is as unkind to both. With WORDS only what has them in its name."""
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from measure import HERE, against, settings, spread, write

WORKER = '''
import sys, time, warnings
warnings.simplefilter('ignore')
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from fastai_actstats.all import *
from fastai_actstats.demo import digits, reference_cnn
torch.set_num_threads(1)
dls, ways = digits(), {}
watchers = {'plain': list, 'ActStats': lambda: [ActStats()],
            'four observers': lambda: [ActStats(), GradStats(), WeightStats(), DeadUnits()]}
for name, make in watchers.items():
    set_seed(42)
    learn = Learner(dls, reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=make())
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = lambda *args: None
    ways[name] = lambda learn=learn: learn.fit(1, 1e-3)
    ways[name].per = len(dls.train)
try: from fastai_actstats.core.summary import Summary
except ImportError: from fastai_actstats.summary import Summary  # before the package had folders
for size in (1000, 100_000, 1_000_000):
    x, calls = torch.randn(size), max(1, 2_000_000//size)
    def reduce(x=x, calls=calls):
        for _ in range(calls): Summary.of(x)
    reduce.per = calls
    ways[f'reduction of {size:,} values'] = reduce
print(*ways, sep='|', flush=True)
for line in sys.stdin:
    way = ways[line.rstrip()]
    start = time.process_time()
    way()
    print((time.process_time() - start)/way.per, flush=True)
'''

class Tree:
    "A process that runs what it is told on one tree"
    def __init__(self, path):
        self.process = subprocess.Popen([sys.executable, '-c', WORKER], cwd=path, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True,
                                        env={'PYTHONPATH': str(path), 'PATH': '/usr/bin:/bin',
                                             'HOME': str(Path.home())})
        self.ways = self.process.stdout.readline().rstrip().split('|')

    def run(self, way): # seconds of processor time a call or step
        self.process.stdin.write(way + '\n')
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

def main(revision, rounds=None, words=''):
    root, rounds = HERE.parent, int(rounds or settings().getint('training_rounds'))
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['git', 'worktree', 'add', '--detach', folder, revision], cwd=root, check=True,
                       capture_output=True)
        try:
            trees, rows = {'now': Tree(root), 'then': Tree(folder)}, []
            for way in (way for way in trees['now'].ways if words in way):
                times = {name: [] for name in trees}
                for i in range(rounds + 1):  # the first round warms up and does not count
                    for name, tree in trees.items():
                        took = tree.run(way)
                        if i: times[name].append(took)
                rows.append({'what': way} | {f'{n}, us': spread(t)['median']*1e6 for n, t in times.items()}
                            | against(times, 'now', 'then', 'now / then'))
        finally: subprocess.run(['git', 'worktree', 'remove', '--force', folder], cwd=root, check=True)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('against', rows, f'python bench/against.py {revision} {rounds} {words}'.rstrip())

if __name__ == '__main__': main(*sys.argv[1:])
