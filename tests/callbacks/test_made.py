"""What a record knows of how it was made, against what the learner really did and what git itself says."""
import subprocess

import pytest
import torch
from fastai.basics import Adam, Callback, Learner, MSELossFlat, params
from fastai.callback import schedule  # noqa: F401, gives learners `fit_one_cycle`
from helpers import quiet, tiny

from fastai_actstats.all import ActStats, GradStats, Record, SaveRecord, compare, merge_records
from fastai_actstats.callbacks import made as module
from fastai_actstats.callbacks.made import commit


class Rates(Callback):
    "The learning rates of each training batch"
    order = 61  # after the scheduler
    def __init__(self): self.seen = []
    def before_batch(self):
        if self.training: self.seen.append([group['lr'] for group in self.opt.hypers])

def two_groups(path, *cbs, **kwargs):
    learn = tiny(path)
    return quiet(Learner(learn.dls, learn.model, loss_func=MSELossFlat(), path=path, cbs=list(cbs),
                         splitter=lambda m: [params(m[0]), params(m[1:])], **kwargs))

def test_it_tells_what_the_learner_did(tmp_path):
    rates = Rates()
    learn = two_groups(tmp_path, ActStats(), GradStats(), rates, opt_func=Adam, wd=.02)
    learn.fit_one_cycle(25, slice(1e-3, 1e-2))
    made = learn.act_stats.record.made
    assert made['model'] == dict(type='Sequential', parameters=sum(p.numel() for p in learn.model.parameters()))
    assert (made['loss'], made['batch_size']) == ('MSELoss', 8)
    assert made['optimiser']['type'] == 'Adam' and made['optimiser']['wd'] == .02
    assert made['versions']['torch'] == torch.__version__
    fit, = made['fits']
    seen = torch.tensor(rates.seen, dtype=torch.float64)
    assert fit['epochs'] == 25 and fit['trained'] == made['model']['parameters']
    assert torch.allclose(torch.tensor(fit['lr']['first']).double(), seen[0], rtol=1e-5)
    assert torch.allclose(torch.tensor(fit['lr']['highest']).double(), seen.amax(0), rtol=1e-5)
    assert all(0 < end < last for end, last in zip(fit['lr']['last'], seen[-1]))  # reached when the fit is over
    assert {k: v for k, v in learn.grad_stats.record.made.items() if k not in ('run', 'date')} == {
        k: v for k, v in made.items() if k not in ('run', 'date')}

def test_each_fit_is_told_and_a_reset_forgets_them(tmp_path):
    learn = two_groups(tmp_path, ActStats())
    learn.fine_tune(2, 1e-2)
    fits = learn.act_stats.record.made['fits']
    whole = sum(p.numel() for p in learn.model.parameters())
    assert [fit['epochs'] for fit in fits] == [1, 2]
    assert [fit['trained'] for fit in fits] == [whole - sum(p.numel() for p in learn.model[0].parameters()), whole]
    learn.validate()
    learn.fit(1, 1e-4)
    assert learn.act_stats.record.made['fits'][2:] == [dict(epochs=1, lr=1e-4, trained=whole)]
    learn.act_stats.reset()
    learn.fit(3, 1e-5)
    assert learn.act_stats.record.made['fits'] == [dict(epochs=3, lr=1e-5, trained=whole)]

def test_files_keep_it_and_records_that_are_made_of_it(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(2, 1e-3)
    rec = learn.act_stats.record
    assert Record.load(tmp_path/'run.npz').made == rec.made == rec['0'].epoch(0).made
    assert merge_records({0: rec, 1: rec}).made == rec.made

def test_a_comparison_tells_what_differs(tmp_path):
    runs = {}
    for name, lr, opt in (('a', 1e-3, Adam), ('b', 1e-2, Adam)):
        learn = tiny(tmp_path, ActStats())
        learn.opt_func = opt
        learn.fit(2, lr)
        runs[name] = learn.act_stats.record
    assert compare(runs).made().to_dict('index') == {'lr': dict(a=1e-3, b=1e-2)}
    assert 'made with another: lr' in repr(compare(runs))
    assert compare(runs).made(every=True).loc['optimiser type'].tolist() == ['Adam', 'Adam']
    same = compare(a=runs['a'], b=runs['a'])
    assert not len(same.made()) and 'made with another' not in repr(same)
    older = runs['b'].replace(made={})
    assert compare(a=runs['a'], older=older).made().loc['epochs'].tolist() == [2, None]

def git(*args, cwd):
    who = ['-c', 'user.name=a', '-c', 'user.email=a@b', '-c', 'commit.gpgsign=false', '-c', 'init.defaultBranch=main']
    return subprocess.run(['git', *who, *args], cwd=cwd, check=True, capture_output=True, text=True).stdout.strip()

def test_the_commit_is_the_one_that_git_names(tmp_path):
    work = tmp_path/'work'
    inner = work/'a'/'b'
    inner.mkdir(parents=True)
    assert commit(inner) is None
    git('init', cwd=work)
    assert commit(inner) is None  # nothing is committed yet
    for message in ('one', 'two'): git('commit', '--allow-empty', '-m', message, cwd=work)
    now = git('rev-parse', 'HEAD', cwd=work)
    assert len(now) == 40 and commit(inner) == commit(work) == now
    git('pack-refs', '--all', cwd=work)
    assert commit(inner) == now
    git('worktree', 'add', '-b', 'other', '../beside', 'HEAD~1', cwd=work)
    assert commit(tmp_path/'beside') == git('rev-parse', 'HEAD', cwd=tmp_path/'beside') != now
    git('checkout', '--detach', 'HEAD~1', cwd=work)
    assert commit(inner) == git('rev-parse', 'HEAD', cwd=work) != now

def test_it_starts_no_process_and_ends_no_fit(tmp_path, monkeypatch):
    def never(*args, **kwargs): raise AssertionError("a process was started")
    monkeypatch.setattr(subprocess.Popen, '__init__', never)
    def fails(*args): raise OSError("the disk is gone")
    monkeypatch.setattr(module, 'git_folder', fails)
    learn = tiny(tmp_path, ActStats())
    learn.fit(1)
    made = learn.act_stats.record.made
    assert 'commit' not in made and (made['loss'], len(made['fits'])) == ('MSELoss', 1)

@pytest.mark.parametrize('content', ['', 'ref: refs/heads/gone', 'ref: ../../../secret', 'no commit'])
def test_nothing_but_a_commit_is_taken_for_one(tmp_path, content):
    (tmp_path/'.git').mkdir()
    (tmp_path/'.git'/'HEAD').write_text(content)
    (tmp_path/'secret').write_text('a password')
    assert commit(tmp_path) is None
