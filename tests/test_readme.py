"""README: its code runs as it stands, its links lead somewhere, it names every tutorial."""
import re
from functools import partial

import fastai.basics
import pytest
from helpers import ROOT

import fastai_actstats.all
from fastai_actstats.demo import reference_cnn

README = (ROOT/'README.md').read_text()

@pytest.mark.slow
def test_its_code_runs(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Learner = partial(fastai.basics.Learner, loss_func=fastai.basics.CrossEntropyLossFlat())  # few's data name none
    names = vars(fastai.basics) | vars(fastai_actstats.all) | dict(dls=few, Learner=Learner)
    for code in re.findall(r'```python\n(.*?)```', README, re.S):
        names['model'] = reference_cnn(True)
        exec(code, names)
        names['learn'].act_stats.save('last_week.npz')
    assert len(fastai_actstats.all.Record.load('run.npz')) == 5*14

def test_its_links_lead_somewhere():
    links = re.findall(r'\]\(([^)#]+)\)', README)
    assert len(links) > 10 and not [link for link in links if not (ROOT/link).exists()]

def test_it_names_every_tutorial():
    numbers = ['', 'One', 'Two', 'Three', 'Four', 'Five', 'Six', 'Seven', 'Eight', 'Nine', 'Ten', 'Eleven', 'Twelve']
    there = {str(f.relative_to(ROOT)) for f in (ROOT/'nbs/tutorials').glob('*.ipynb')}
    assert set(re.findall(r'nbs/tutorials/\w+\.ipynb', README)) == there
    assert f'{numbers[len(there)]} notebooks, each run by the tests' in README
