"""What the benchmarks share: settings, measuring in alternation, and writing what was measured with where and how."""
import json
import platform
import statistics
import time
from configparser import ConfigParser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

HERE = Path(__file__).parent

def settings(section='bench'):
    ini = ConfigParser()
    ini.read(HERE.parent/'settings.ini')
    return ini[section]

def numbers(name): return [int(v) for v in settings()[name].split()]

def alternate(ways:dict, rounds:int, clock=time.perf_counter, sync=None) -> dict: # name → seconds of each round
    "Run every way once a round, so that a busy machine is as unkind to all; the first round does not count"
    times = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, run in ways.items():
            start = clock()
            run()
            if sync: sync()
            if i: times[name].append(clock() - start)
    return times

def spread(times):
    "Median, and the quartiles around it"
    q = statistics.quantiles(times, n=4) if len(times) > 1 else times*3
    return dict(median=statistics.median(times), low=q[0], high=q[2])

def between(times, digits=3):
    "The quartiles, to be read"
    s = spread(times)
    return f"{s['low']:.{digits}g} to {s['high']:.{digits}g}"

def against(times, name, other, what): # two columns: a ratio, and its quartiles
    "Round by round, so that both ways had the same machine"
    ratios = [a/b for a, b in zip(times[name], times[other])]
    return {what: statistics.median(ratios), f'{what}, quartiles': between(ratios)}

def added(steps, plain): # milliseconds a step of each round, with a watcher and without
    "Four columns: a step, and what it adds to the plain one of the same round"
    more, whole = [a - b for a, b in zip(steps, plain)], statistics.median(plain)
    return {'ms a step': statistics.median(steps), 'adds, ms': statistics.median(more),
            'adds, quartiles': between(more),
            'adds': statistics.median(more)/whole}

def quiet(learn):
    "The same learner, without a progress bar and without what it prints"
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = lambda *args: None
    return learn

def timed(owner, name, into):
    "Add the time of every call of `owner.name` to `into[-1]`"
    real = getattr(owner, name)
    def run(*args, **kwargs):
        start = time.perf_counter()
        try: return real(*args, **kwargs)
        finally: into[-1] += time.perf_counter() - start
    setattr(owner, name, run)

def machine():
    cpu = next((l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines()
                if l.startswith('model name')), '') \
        if Path('/proc/cpuinfo').exists() else platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(cpu=cpu, threads=torch.get_num_threads(), gpu=gpu, python=platform.python_version(),
                torch=torch.__version__)

def write(name:str, rows:list, command:str|None=None):
    "The measured rows to `bench/results/NAME.json`, with machine, versions and command"
    versions = {name: version(name) for name in ('fastai', 'numba', 'triton') if find_spec(name)}
    made = dict(command=command or f"python bench/{name}.py", machine=machine(), versions=versions,
                date=time.strftime('%Y-%m-%d'), rows=rows)
    (HERE/'results').mkdir(exist_ok=True)
    (HERE/'results'/f'{name}.json').write_text(json.dumps(made, indent=1) + '\n')
