"""The kernels beside forked workers, in two threads, after a fork; those for CUDA compiled where there is no GPU."""
import os
import subprocess
import sys
import threading

import pytest
import torch
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner
from helpers import ROOT, quiet
from torch import nn

from fastai_actstats.all import ActStats
from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels import cpu
from fastai_actstats.kernels.eager import MEAN


def wide(few, workers=0):
    "A network whose first output is large enough for several threads"
    dls = DataLoaders.from_dsets(few.train_ds, few.valid_ds, bs=64, num_workers=workers, device=torch.device('cpu'))
    model = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=ActStats()))

@pytest.fixture
def threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:.*fork.*:DeprecationWarning')
def test_beside_forked_workers(few, threads):
    for _ in range(2):
        learn = wide(few, workers=2)
        assert 64*10*26*26 > 2*cpu.PART
        learn.fit(1, 1e-3)
        assert (learn.act_stats.record.count == 64*10*26*26).all() and len(learn.act_stats.record) == 14

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_same_to_the_last_bit_with_any_number_of_threads(dtype, threads):
    x = (torch.randn(1_234_567)*3).to(dtype)
    rows = {}
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        rows[n] = Summary.of(x, kernel='cpu').rows
    assert torch.equal(rows[1], rows[2]) and torch.equal(rows[1], rows[3])
    want = Summary.of(x, kernel='eager').rows
    assert torch.equal(rows[1][:MEAN], want[:MEAN])
    torch.testing.assert_close(rows[1], want, rtol=1e-9, atol=1e-12)

def test_threads_are_those_of_torch(threads, monkeypatch):
    taken, team = [], cpu._team
    monkeypatch.setattr(cpu, '_team', lambda *args: taken.append(args[2]) or team(*args))
    for size in (2*cpu.PART, 2*cpu.PART + 1): Summary.of(torch.randn(size), kernel='cpu')
    assert taken == [2]

@pytest.mark.slow
def test_two_learners_in_two_threads(few, threads):
    def run(learn, errors):
        try: learn.fit(2, 1e-3)
        except BaseException as e: errors.append(e)
    learners, errors = [wide(few) for _ in range(2)], []
    started = [threading.Thread(target=run, args=(learn, errors)) for learn in learners]
    [t.start() for t in started]
    [t.join(120) for t in started]
    assert not errors and not any(t.is_alive() for t in started)
    for learn in learners:
        assert len(learn.act_stats.record) == 28 and (learn.act_stats.record.count == 64*10*26*26).all()

FORKED = """
import os, torch
from fastai_actstats.core.summary import Summary
torch.set_num_threads(2)
x = torch.arange(1_000_000.) % 7
before = Summary.of(x, kernel='cpu')
if os.fork() == 0:
    again = Summary.of(x, kernel='cpu')
    os._exit(0 if torch.equal(again.rows, before.rows) else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""

@pytest.mark.slow
def test_a_process_that_forks_after_a_fit():
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', FORKED], cwd=ROOT, timeout=120).returncode == 0

COMPILED = """
import sys
sys.path.insert(0, 'bench')
from instructions import ASTSource, GPUTarget, TYPES, compiled, cuda, loop, triton

for architecture in (80, 90):
    for dtype in TYPES:
        for log in (False, True):
            made, rows = compiled(dtype, log, architecture), cuda.tile(dtype)['ROWS']
            loads = made.asm['ptx'].count('ld.global.v4.b32')  # in the loop and in the careful one
            assert loads == 2*rows, f"{dtype}, {architecture}: {loads} reads of 16 bytes a thread, not 2 times {rows}"
            names, registers, _ = loop(made.asm['cubin'])
            said = f"{dtype}, {architecture}: {names}, {registers} registers"
            assert names.count('BAR') == 3 and registers*32*cuda.WARPS*cuda.WAVES <= 65536, said
    types = dict(row='*fp64', part='*fp64', size='i32', programs='i32', n='i32', MOST='constexpr')
    source = ASTSource(cuda._combine, types, dict(MOST=1024))
    assert triton.compile(source, target=GPUTarget('cuda', architecture, 32)).asm['cubin']
"""

@pytest.mark.slow
def test_the_cuda_kernels_compile_for_real_gpus():
    "to machine code, with reads of 16 bytes, threads that meet for the histogram only, and space for all programs"
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', COMPILED], cwd=ROOT, timeout=300, env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
