"""What several processes cost: a step with and without ActStats, bytes sent, and meetings of many simulated ranks.

python bench/distributed.py [--procs 2] [--ranks 8 64 1024] writes bench/results/distributed.json. Ranks are simulated by threads of one
process with gloo over the loopback: the same code, heads, teams and bytes as between machines, on the cores that are there."""
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
from datetime import timedelta
from pathlib import Path

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
            def timed():
                began = time.perf_counter()
                meet()
                spent.append(time.perf_counter() - began)
            stats.merge_ranks = timed
            learn.fit(1, worker.LR)
            if i: times[on].append((time.perf_counter() - start - sum(spent))/n*1000); meetings += spent
    if rank == 0:
        ms = {('with' if on else 'without'): sorted(t)[len(t)//2] for on, t in times.items()}
        Path(out).write_text(json.dumps(dict(processes=size, step_ms=ms, meeting_ms=sorted(meetings)[len(meetings)//2]*1000,
                                             layers=9, columns=n, record_bytes=stats.recorder.record.nbytes)))
    dist.destroy_process_group()

def simulated(ranks, columns, layers=9):
    "Seconds of one meeting of so many threads"
    from fastai_actstats.bins import Bins
    from fastai_actstats.distributed import meet
    from fastai_actstats.record import Record
    from fastai_actstats.ring import COLUMN
    from fastai_actstats.summary import Summary
    bins, cols = Bins(), torch.arange(columns).numpy()
    c = torch.zeros(columns).numpy().astype(COLUMN)
    c['first'] = c['last'] = cols
    c['steps'] = 1
    rows = Summary.of(torch.randn(1000), bins).rows.expand(columns, layers, -1)
    server = dist.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    results, errors = [None]*ranks, []
    def run(rank):
        store = dist.TCPStore('127.0.0.1', server.port, is_master=False, timeout=timedelta(seconds=120))
        rec = Record(rows.clone(), c.copy(), [str(i) for i in range(layers)], bins)
        try: results[rank] = meet(rec, dist.PrefixStore('bench', store), rank, ranks, 240.).record.count[0, 0]
        except Exception as e: errors.append(str(e))
    threads = [threading.Thread(target=run, args=(r,)) for r in range(ranks)]
    start = time.perf_counter()
    for t in threads: t.start()
    for t in threads: t.join()
    assert not errors and all(n == 1000*ranks for n in results), errors[:3]
    size = columns*layers*(bins.n + 9)*8
    return dict(ranks=ranks, columns=columns, layers=layers, record_bytes=size, seconds=time.perf_counter() - start)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--procs', type=int, default=2)
    parser.add_argument('--ranks', type=int, nargs='*', default=[8, 64, 1024])
    parser.add_argument('--step-time', metavar='FILE', help='used by the processes that this starts')
    args = parser.parse_args()
    if args.step_time: return step_time(args.step_time)
    torch.set_num_threads(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as tmp:
        env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
        subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(args.procs), __file__,
                        '--step-time', f'{tmp}/step.json'], check=True, env=env)
        step = json.loads(Path(tmp, 'step.json').read_text())
    res = dict(cores=os.cpu_count(), python=platform.python_version(), torch=torch.__version__, step=step, simulated=[])
    for n in args.ranks:
        try: res['simulated'].append(simulated(n, {8: 1024, 64: 256}.get(n, 16)))
        except AssertionError as e: res['simulated'].append(dict(ranks=n, failed=str(e)[:300]))
        print(res['simulated'][-1])
    (ROOT/'bench'/'results').mkdir(exist_ok=True)
    (ROOT/'bench'/'results'/'distributed.json').write_text(json.dumps(res, indent=1) + '\n')
    print(json.dumps(res['step']))

if __name__ == '__main__': main()
