"""What several processes cost: a step with and without ActStats, bytes sent, and meetings of many simulated ranks.

python bench/distributed.py [--procs 2 4] [--ranks 8 64 1024] writes bench/results/distributed.json. Ranks are
simulated by threads of one process (of several, above 256) with gloo over the loopback: the same code, heads, teams
and bytes as between machines, on the cores that are there."""
import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')  # which names every socket without a host name

import numpy as np
import torch
import torch.distributed as dist

ROOT = Path(__file__).parent.parent
sys.path += [str(ROOT), str(ROOT/'tests')]

def step_time(out, rounds=5, n=20):
    "Under torchrun: milliseconds a training step, alternately without and with ActStats, and the time of a meeting"
    import distributed_worker as worker

    from fastai_actstats.all import ActStats
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    dls, times, meetings = worker.loaders(worker.batches(rank, size, n)), {False: [], True: []}, []
    for i in range(rounds + 1):
        for on in (False, True):
            stats = ActStats()
            learn = worker.learner(worker.ddp(worker.model()), dls, [stats] if on else [])
            dist.barrier()
            start = time.perf_counter()
            meet, spent = stats.merge_ranks, []
            def timed(at=None, meet=meet, spent=spent):
                began = time.perf_counter()
                meet(at)
                spent.append(time.perf_counter() - began)
            stats.merge_ranks = timed
            learn.fit(1, worker.LR)
            if i:
                times[on].append((time.perf_counter() - start - sum(spent))/n*1000)
                meetings += spent
    if rank == 0:
        ms = {('with' if on else 'without'): sorted(t)[len(t)//2] for on, t in times.items()}
        row = {'processes': size, 'step without, ms': ms['without'], 'step with, ms': ms['with'], 'layers': 9,
               'columns': n, 'meeting, ms': sorted(meetings)[len(meetings)//2]*1000}
        Path(out).write_text(json.dumps(row))
    dist.destroy_process_group()

def some_ranks(port, first, last, ranks, columns, layers):
    "Threads of this process that are the ranks from `first` to `last`: their errors"
    from fastai_actstats.callbacks.distributed import meet
    from fastai_actstats.core.columns import COLUMN
    from fastai_actstats.core.record import Record
    from fastai_actstats.core.summary import Summary
    from fastai_actstats.kernels.bins import Bins
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:]*2)
    bins, c, errors = Bins(), np.zeros(columns, COLUMN), []
    c['first'] = c['last'] = range(columns)
    c['steps'] = 1
    rows = Summary.of(torch.arange(1000.) % 7, bins).rows.expand(columns, layers, -1)
    def run(rank):
        store = dist.TCPStore('127.0.0.1', port, is_master=False, timeout=timedelta(seconds=300))
        record = Record(rows.clone(), c.copy(), [str(i) for i in range(layers)], bins)
        try: met = meet(record, dist.PrefixStore('bench', store), rank, range(ranks), 300.).record
        except Exception as e: errors.append(f"rank {rank}: {e}")
        else:
            if (met.count != 1000*ranks).any(): errors.append(f"rank {rank}: merged {met.count[0, 0]} values")
    threads = [threading.Thread(target=run, args=(r,)) for r in range(first, last)]
    for t in threads: t.start()
    for t in threads: t.join()
    return errors

def simulated(ranks, columns, layers=9):
    "Seconds of one meeting of so many ranks, which are threads, at most 256 a process"
    from fastai_actstats.kernels.bins import Bins
    server = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    parts = [(server.port, i, min(i + 256, ranks), ranks, columns, layers) for i in range(0, ranks, 256)]
    with ProcessPoolExecutor(len(parts), get_context('spawn')) as pool:
        # no ranks: only imports
        list(pool.map(some_ranks, *zip(*[(port, 0, 0, *rest) for port, _, _, *rest in parts])))
        start = time.perf_counter()
        errors = sum(pool.map(some_ranks, *zip(*parts)), [])
        seconds = time.perf_counter() - start
    assert not errors, errors[:3]
    return dict(ranks=ranks, columns=columns, layers=layers, record_bytes=columns*layers*(Bins().n + 11)*8,
                seconds=seconds)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--procs', type=int, nargs='*', default=[2, 4])
    parser.add_argument('--ranks', type=int, nargs='*', default=[8, 64, 1024])
    parser.add_argument('--step-time', metavar='FILE', help='used by the processes that this starts')
    args = parser.parse_args()
    if args.step_time: return step_time(args.step_time)
    steps, env = [], dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    for n in args.procs:
        with tempfile.TemporaryDirectory() as tmp:
            subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node',
                            str(n), __file__,
                            '--step-time', f'{tmp}/step.json'], check=True, env=env)
            steps.append(json.loads(Path(tmp, 'step.json').read_text()))
        print(steps[-1])
    res = dict(cores=os.cpu_count(), python=platform.python_version(), torch=torch.__version__, steps=steps,
               simulated=[])
    for n in args.ranks:
        try: res['simulated'].append(simulated(n, {8: 1024, 64: 256}.get(n, 16)))
        except AssertionError as e: res['simulated'].append(dict(ranks=n, failed=str(e)[:300]))
        print(res['simulated'][-1])
    (ROOT/'bench'/'results').mkdir(exist_ok=True)
    (ROOT/'bench'/'results'/'distributed.json').write_text(json.dumps(res, indent=1) + '\n')

if __name__ == '__main__': main()
