"""Samples while a model trains: of the same items, of whatever model, leaving training as it was."""
import copy
import pickle

import numpy as np
import pytest
import torch
from fastai.basics import Callback, CancelFitException
from helpers import hooks_on
from torch import nn

from fastai_actstats.callbacks.sample import ActSample
from fastai_actstats.features.sampling import sample_activations


def test_each_epoch_is_sampled_from_the_same_items(learner):
    learn = learner(cbs=ActSample(['3.2', '5'], 60, every_epoch=True, seed=1))
    learn.fit(2, 0.05)
    after = sample_activations(learn, ['3.2', '5'], 60, seed=1)
    s = learn.act_sample.sample
    assert s.epochs == [0, 1] and len(s) == 120
    assert np.array_equal(s.at(0).index, after.index) and np.array_equal(s.at(-1).index, after.index)
    for layer in s.layers:
        assert np.allclose(s.at(1).layer(layer), after.layer(layer), atol=1e-6)
        assert not np.allclose(s.at(0).layer(layer), after.layer(layer), atol=1e-3)
    assert np.array_equal(s.at(1).prediction, after.prediction) and np.array_equal(s.at(1).target, after.target)
    learn.validate()
    learn.get_preds()
    learn.fit(1, 0.01)
    assert learn.act_sample.sample.epochs == [0, 1, 2] and not hooks_on(learn.model)
    last = learner(cbs=ActSample('5', 60))
    last.fit(2, 0.05)
    assert last.act_sample.sample.epochs == [1]
    with pytest.raises(IndexError, match=r'epoch 7 is not among those sampled: \[1\]'): last.act_sample.sample.at(7)

def test_a_compiled_model_is_sampled_too(learner):
    torch._dynamo.reset()
    samples, compiles = [], []
    for compiled in (False, True):
        learn = learner(cbs=ActSample(['0.2', '4.0'], n=20, every_epoch=True))
        if compiled: learn.model.compile(backend=lambda graph, inputs: compiles.append(1) or graph.forward)
        learn.fit(2, 1e-3)
        first = len(compiles)
        learn.fit(1, 1e-3)
        samples.append(learn.act_sample.sample)
    plain, got = samples
    assert np.array_equal(plain.index, got.index) and len(got) == 60 and first == len(compiles) > 0
    for name in ('0.2', '4.0'): np.testing.assert_allclose(got.acts[name], plain.acts[name], rtol=1e-4, atol=1e-5)

def test_training_is_the_same_with_and_without(learner):
    def run(cbs):
        learn = learner(cbs=cbs)
        learn.fit(2, 0.05)
        return learn.recorder.values, [p.tolist() for p in learn.model.parameters()], torch.get_rng_state().tolist()
    assert run(None) == run(ActSample(n=50, every_epoch=True)) == run(ActSample(n=50, pool=None))

class Fail(Callback):
    order = 100
    def __init__(self, error): self.error = error
    def after_pred(self):
        if not self.training and self.iter == 2: raise self.error('in the middle')

@pytest.mark.parametrize('error', [CancelFitException, KeyboardInterrupt, ZeroDivisionError])
def test_a_fit_that_ends_early_leaves_nothing(learner, error):
    learn = learner(cbs=[ActSample(n=10), Fail(error)])
    try: learn.fit(1, 0.05)
    except (KeyboardInterrupt, ZeroDivisionError): pass
    assert not hooks_on(learn.model) and 'all_batches' not in learn.__dict__ and learn.act_sample.reservoir is None
    if not learn.act_sample.samples:
        with pytest.raises(ValueError, match='nothing is sampled'): _ = learn.act_sample.sample
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, Fail)))
    learn.fit(1, 0.05)
    assert len(learn.act_sample.sample) == 10

class CopyInValidation(Callback):
    order = 100
    def after_pred(self):
        if not self.training and self.iter == 1:
            self.copies = copy.deepcopy(self.learn.model), copy.deepcopy(self.learn.act_sample)

def test_copies_and_pickles(learner, tmp_path):
    learn = learner(cbs=[ActSample('5', n=10), CopyInValidation()])
    learn.fit(1, 0.05)
    model, callback = learn.copy_in_validation.copies
    with torch.no_grad(): model(torch.zeros(1, 1, 28, 28))
    assert callback.n == 10 and len(pickle.loads(pickle.dumps(copy.deepcopy(learn.act_sample))).sample) == 10

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.body, self.windows, self.tops = nn.Flatten(), nn.Linear(784, 10), nn.Identity(), nn.Identity()
    def forward(self, x):
        self.windows(x.view(-1, 7))
        self.tops(x.argmax(-1))
        return self.body(self.flat(x))

def test_layers_that_do_not_fit_are_left_out(learner):
    learn = learner(model=Odd(), cbs=ActSample(['windows', 'tops', 'body'], 20))
    with pytest.warns(UserWarning) as said: learn.fit(1, 0.01)
    texts = sorted(str(w.message) for w in said if 'left out' in str(w.message))
    assert texts == ["layer 'tops' is left out of the sample: no tensor of floats in its output",
                     "layer 'windows' is left out of the sample: shape (7168, 7) for a batch of 64"]
    assert learn.act_sample.sample.layers == ['body']

def test_bad_arguments():
    with pytest.raises(ValueError, match="pool='sum' must be one of"): ActSample(pool='sum')
    with pytest.raises(ValueError, match="n=0 must be a whole number"): ActSample(n=0)
