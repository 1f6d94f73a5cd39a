"""Notebooks run, are clean, and are what the modules were exported from."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

NOTEBOOKS = sorted(str(f.relative_to(ROOT)) for f in (ROOT/'nbs').rglob('*.ipynb')
                   if '.ipynb_checkpoints' not in f.parts)

def groups(most=8):
    "Tutorials alone, those of modules folder by folder: one import of fastai a group"
    folders = {}
    for n in NOTEBOOKS: folders.setdefault(n if 'tutorials' in n else str(Path(n).parent), []).append(n)
    return [group[i:i + most] for group in folders.values() for i in range(0, len(group), most)]

def name(group):
    first, last = (Path(n).relative_to('nbs').with_suffix('') for n in (group[0], group[-1]))
    return str(first) if first == last else f'{first} to {last.name}'

@pytest.mark.slow
@pytest.mark.parametrize('notebooks', groups(), ids=name)
def test_they_run(notebooks):
    code = f"from nbdev.test import test_nb; raise SystemExit([n for n in {notebooks!r} if not test_nb(n)[0]] or 0)"
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

@pytest.mark.slow
def test_modules_are_what_the_notebooks_export(tmp_path):
    for name in ('nbs', 'fastai_actstats'):
        shutil.copytree(ROOT/name, tmp_path/name,
                        ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'models'))
    for name in ('pyproject.toml', 'README.md'): shutil.copy(ROOT/name, tmp_path)
    for module in (tmp_path/'fastai_actstats').rglob('*.py'):
        if module.name != '__init__.py': module.unlink()
    export = Path(sys.executable).parent/'nbdev-export'
    done = subprocess.run([export], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = lambda at: {str(f.relative_to(at)): f.read_text() for f in (at/'fastai_actstats').rglob('*.py')}
    assert modules(ROOT) == modules(tmp_path)

def test_they_are_small():
    big = {n: (ROOT/n).stat().st_size for n in NOTEBOOKS if (ROOT/n).stat().st_size > 300_000}
    assert not big
