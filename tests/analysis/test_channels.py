"""The rules on channels: faults put into one channel of real trainings, and healthy ones beside them."""
import importlib.util
import sys

import numpy as np
import pytest
import torch
from fastai.basics import Callback, set_seed
from helpers import ROOT
from torch import nn

from fastai_actstats.all import ActStats, ChannelStats, DeadUnits, diagnose
from fastai_actstats.demo import reference_cnn


@pytest.fixture(scope='module')
def faults():
    spec = importlib.util.spec_from_file_location('faults_of_channels', ROOT/'bench'/'faults.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))

class Loud(Callback):
    "From a step on one channel of a layer gives 300 times what it did"
    order = -99
    def __init__(self, layer, channel, at=30): self.layer, self.channel, self.at = layer, channel, at
    def before_fit(self):
        def louder(module, args, x):
            if self.train_iter < self.at or not self.training: return None
            scale = torch.ones(x.shape[1])
            scale[self.channel] = 300
            return x*scale.view(1, -1, *[1]*(x.dim() - 2))
        self.handle = self.model.get_submodule(self.layer).register_forward_hook(louder)
    def after_fit(self): self.handle.remove()

@pytest.mark.slow
@pytest.mark.parametrize('make,layer,channel,stats', [
    (reference_cnn, '1.2', 5, ChannelStats), (lambda: reference_cnn(False), '2.1', 20, ChannelStats),
    (mlp, '2', 40, lambda: ChannelStats(every=1)), (mlp, '1', 11, lambda: ChannelStats(nn.Linear))])
def test_a_channel_that_runs_away_is_named(learner, settings, make, layer, channel, stats):
    set_seed(1)
    learn = learner([stats(), ActStats(), Loud(layer, channel)], model=make())
    learn.fit(6, 1e-3)
    found = [f for f in learn.channel_stats.report() if f.finding == 'runaway']
    assert found and found[0].layer == f'{layer}[{channel}]' and 25 <= found[0].since <= 50, found
    assert found[0].severity == 'alarm' and 'median' in found[0].evidence
    assert f'{layer}[{channel}]' in set(diagnose(learn).df.layer)

@pytest.mark.slow
@pytest.mark.parametrize('seed', [31, 32])
@pytest.mark.parametrize('name', ['reference_gentle', 'relu_mlp', 'residual', 'transformer', 'lstm'])
def test_healthy_runs_have_nothing_but_notes(faults, name, seed):
    "Networks and seeds that no threshold was chosen on"
    layers = lambda name, m: any(True for _ in m.parameters(recurse=False)) or isinstance(m, (nn.ReLU, nn.GELU))
    def watch(units): return [ChannelStats(), ChannelStats(layers, every=1, name='all_layers')]
    learn = faults.train(name, seed, watch=watch, epochs=1, share=.5)
    for cb in (learn.channel_stats, learn.all_layers):
        assert cb.record.layers and not [f for f in cb.report() if f.severity != 'note']

def test_copies_are_named(learner, settings):
    model = mlp()
    with torch.no_grad():
        model[1].weight[[3, 9, 30]], model[1].bias[[3, 9, 30]] = model[1].weight[3].clone(), model[1].bias[3].clone()
        model[3].weight[:, [3, 9, 30]] = model[3].weight[:, 3:4].clone()
    learn = learner(ChannelStats(every=2), model=model)
    learn.fit(1, 1e-3)
    [found] = [f for f in learn.channel_stats.report() if f.finding == 'copies']
    assert (found.layer, found.since, found.severity) == ('2[3]', 0, 'alarm')
    assert '3 of 64 channels' in found.evidence and '3, 9, 30' in found.evidence

def test_constant_initialisation_is_copies(learner, settings):
    model = mlp()
    nn.init.constant_(model[1].weight, .01), nn.init.zeros_(model[1].bias)
    learn = learner(ChannelStats(every=2), model=model)
    learn.fit(1, 0.)
    assert '64 of 64 channels' in next(f for f in learn.channel_stats.report() if f.finding == 'copies').evidence

def test_a_channel_that_holds_the_energy_is_a_note(learner, settings):
    model = mlp()
    with torch.no_grad(): model[1].weight[17] *= 20
    learn = learner(ChannelStats(every=1), model=model)
    learn.fit(1, 1e-4)
    [found] = learn.channel_stats.report()
    rec = learn.channel_stats.record['2']
    square = rec.mean**2 + rec.std**2
    assert (found.layer, found.finding, found.since, found.severity) == ('2[17]', 'energy', 0, 'note')
    assert f'{square[-1, 17]/square[-1].sum():.0%}' in found.evidence

def test_ignored_inputs_of_a_convolution_are_a_note(learner, settings):
    model, lr = reference_cnn(False), 1e-4
    class Mute(Callback):
        def after_step(self): self.model[2][0].weight.data[:, [4, 11]] *= 1e-4
    learn = learner([ChannelStats(), Mute()], model=model)
    learn.fit(2, lr)
    norms = model[2][0].weight.detach().square().sum((0, 2, 3)).sqrt()
    assert (norms < norms.median()/256).nonzero().flatten().tolist() == [4, 11]
    [found] = learn.channel_stats.report()
    assert (found.layer, found.finding, found.since, found.severity) == ('2.0[:, 4]', 'ignored-input', 13, 'note')
    assert 'input channels 4, 11' in found.evidence

def test_dead_channels_of_single_steps(learner, settings):
    "As those of windows: silent for long enough, in most of a layer"
    model = mlp()
    class Kill(Callback):
        def before_batch(self):
            if self.train_iter >= 10: self.model[1].bias.data[:40] = -99.
    cbs = [ChannelStats(every=1, silent=10), DeadUnits(window=10)]
    learn = learner([*cbs, Kill()], model=model)
    learn.fit(3, 1e-4)
    for cb in cbs:
        [found] = [f for f in cb.report() if f.finding == 'dead']
        assert (found.layer, found.since) == ('2', 10) and '40 of 64 units' in found.evidence
    assert np.array_equal(cbs[0].died('2'), cbs[1].died('2'))
