"""What reading a record loads: a colleague, a notebook server or a shell command waits for nothing else."""
import subprocess
import sys

HEAVY = 'fastai', 'matplotlib', 'seaborn', 'numba', 'triton', 'sympy', 'torch._dynamo', 'torch._inductor'

def printed(code):
    "What a process of its own prints"
    return subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout

def test_the_line_that_was_promised():
    line = "import fastai_actstats.core.record, sys; print('fastai' in sys.modules, 'matplotlib' in sys.modules)"
    assert printed(line) == 'False False\n'

def test_core_loads_nothing_heavy():
    code = f"""
import sys, torch
before = set(sys.modules)
from fastai_actstats.core import accumulator, files, layers, ranks, record, ring
print(*sorted((set(sys.modules) - before) & set({HEAVY})))"""
    assert not printed(code).split()
