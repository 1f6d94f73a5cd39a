"""What holds for every file: lint, types, lengths."""
import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

BIN = Path(sys.executable).parent

def run(*command):
    done = subprocess.run([str(BIN/command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr

def test_ruff_finds_nothing():
    code, said = run('ruff', 'check', '--no-cache', '.')
    assert code == 0, said[-3000:]

@pytest.mark.slow
def test_types_of_core_and_analysis_hold():
    code, said = run('basedpyright', '--pythonpath', sys.executable)
    assert code == 0, said[-3000:]

def test_the_package_lists_its_modules():
    "nbdev lists a module whose docstring says more than its title: four lines or more"
    package = ROOT/'fastai_actstats'
    files = [f.relative_to(ROOT).with_suffix('') for f in sorted(package.rglob('*.py')) if f.name[0] != '_']
    listed = re.findall(r'^- `([\w.]+)`: .', ast.get_docstring(ast.parse((package/'__init__.py').read_text())), re.M)
    assert listed == ['.'.join(f.parts) for f in files]

def lengths(pattern, of):
    return {str(f.relative_to(ROOT)): of(f) for f in ROOT.glob(pattern) if '.ipynb_checkpoints' not in f.parts}

def test_modules_are_short():
    lines = lengths('fastai_actstats/**/*.py', lambda f: len(f.read_text().splitlines()))
    assert not {f: n for f, n in lines.items() if n > 250 and not f.endswith('_modidx.py')}

def test_notebooks_are_small():
    assert not {f: n for f, n in lengths('nbs/**/*.ipynb', lambda f: f.stat().st_size).items() if n > 300_000}
