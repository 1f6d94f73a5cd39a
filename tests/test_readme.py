"""README: its code runs as it stands, its links lead somewhere, it names every tutorial."""
import os
import re
import subprocess
import sys
from functools import partial

import fastai.basics
import pytest
from helpers import ROOT

import fastai_actstats.all
from fastai_actstats.demo import reference_cnn

README = (ROOT/'README.md').read_text()

FIRST, *OTHERS = re.findall(r'```python\n(.*?)```', README, re.S)

@pytest.mark.slow
def test_its_first_example_runs_as_it_stands(tmp_path):
    shown = """
record, report = learn.act_stats.record, learn.act_stats.report()
print()
print(learn.recorder.values[-1][-1], len(record.layers), report.looked, sep='|')"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', FIRST + shown], capture_output=True, text=True,
                          cwd=tmp_path, env=dict(os.environ, MPLBACKEND='agg', PYTHONPATH=str(ROOT)))
    assert done.returncode == 0, done.stderr
    accuracy, layers, looked = done.stdout.splitlines()[-1].split('|')
    assert float(accuracy) > .9 and layers == '3' and 'activations of 3 layers over 174 steps' in looked, done.stdout

@pytest.mark.slow
def test_its_other_code_runs(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Learner = partial(fastai.basics.Learner, loss_func=fastai.basics.CrossEntropyLossFlat())  # few's data name none
    names = vars(fastai.basics) | vars(fastai_actstats.all) | dict(dls=few, Learner=Learner)
    older = fastai_actstats.all.ActStats()
    learn = Learner(few, reference_cnn(True), cbs=older)
    learn.fit(5)
    older.save('last_week.npz')
    for code in OTHERS:
        names['model'] = reference_cnn(True)
        exec(code, names)
    assert 'lr highest' in names['both'].made().index
    assert len(fastai_actstats.all.Record.load('run.npz')) == 5*14

def test_its_links_lead_somewhere():
    links = re.findall(r'\]\(([^)#]+)\)', README)
    assert len(links) > 10 and not [link for link in links if not (ROOT/link).exists()]

def test_it_names_every_tutorial():
    numbers = ['', 'One', 'Two', 'Three', 'Four', 'Five', 'Six', 'Seven', 'Eight', 'Nine', 'Ten', 'Eleven', 'Twelve']
    there = {str(f.relative_to(ROOT)) for f in (ROOT/'nbs/tutorials').glob('*.ipynb')}
    assert set(re.findall(r'nbs/tutorials/\w+\.ipynb', README)) == there
    assert f'{numbers[len(there)]} notebooks, each run by the tests' in README
