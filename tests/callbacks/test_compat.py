"""What importing the package loads, and that hooks and graphs need nothing more."""
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastai_actstats.callbacks.hooks import Hooks

HEAVY = 'torch._dynamo', 'triton', 'numba', 'seaborn', 'tensorboard', 'wandb'

def loaded(code):
    "Which of the heavy packages are there after `code` has run in a process of its own"
    script = f"import sys\n{code}\nprint(*[n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return set(done.stderr.split())

@pytest.fixture(scope='module')
def fastais_own(): return loaded('from fastai.basics import *')

def test_nothing_heavy_is_imported_before_it_is_asked_for(fastais_own):
    assert loaded('from fastai_actstats.all import *') <= fastais_own

def test_an_eager_model_trains_without_the_compiler(fastais_own):
    code = """
import torch
from torch import nn
from fastai.basics import *
from fastai_actstats.all import *
x = torch.randn(16, 4)
dl = torch.utils.data.DataLoader(list(zip(x, x[:, :1])), 8)
model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
cbs = [ActStats(kernel='eager'), GradStats(kernel='eager'), WeightStats(kernel='eager'), DeadUnits(), ActSample()]
learn = Learner(DataLoaders(dl, dl), model, nn.MSELoss(), opt_func=partial(OptimWrapper, opt=torch.optim.SGD), cbs=cbs)
learn.logger = noop
learn.fit(1, .1)
assert learn.grad_stats.record.columns['steps'].sum() == 2
"""
    plain = code.split('cbs = ')[0] + "cbs = []\n" + code.split('ActSample()]\n')[1].split('assert')[0]
    assert 'torch._dynamo' not in loaded(code) - loaded(plain)

def test_hooks_are_off_whatever_ends_the_with_and_keep_their_numbers():
    net, seen = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), []
    def note(module, args, output): seen.append(module)
    def other(module, args, output): seen.append('other')
    numbers = []
    for error in (None, KeyboardInterrupt, ValueError):
        try:
            with Hooks([(net[0], note), (net[1], other)]) as hooks:
                assert [*net[0]._forward_hooks, *net[1]._forward_hooks] == hooks.numbers
                numbers.append(hooks.numbers)
                net(torch.zeros(1, 2))
                if error: raise error
        except (KeyboardInterrupt, ValueError): pass
        assert not net[0]._forward_hooks and not net[1]._forward_hooks
    assert seen == [net[0], 'other']*3 and numbers[0] == numbers[1] == numbers[2]

def test_hooks_that_cannot_all_be_put_on_leave_none():
    net = nn.Linear(2, 2)
    with pytest.raises(AttributeError), Hooks([(net, lambda *args: None), (None, lambda *args: None)]): pass
    assert not net._forward_hooks
