"""Fixtures: reference settings, real digits, learners that begin alike."""
import pytest
import torch
from fastai.basics import DataLoaders, accuracy
from helpers import read_settings, seeded, two_fits

from fastai_actstats.demo import digits

pytest_plugins = ['what_holds']

@pytest.fixture(autouse=True)
def gradients_stay_on():
    "What leaves them off spoils every test after it"
    yield
    on = torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert on, 'gradients are off'

@pytest.fixture(scope='session')
def settings(): return read_settings()

@pytest.fixture(scope='session')
def dls(settings): return digits(settings.seed, settings.batch_size, settings.valid_pct)

@pytest.fixture(scope='session')
def few(dls, settings):
    "A quarter of the digits: 14 training and 5 validation batches"
    part = [torch.utils.data.Subset(ds, range(len(ds)//4)) for ds in (dls.train_ds, dls.valid_ds)]
    return DataLoaders.from_dsets(*part, bs=settings.batch_size, device=torch.device('cpu'), num_workers=0)

@pytest.fixture
def learner(few, settings):
    "Make a seeded learner without bars: `learner(cbs=..., model=..., dls=...)`"
    def make(cbs=None, model=None, dls=None, metrics=accuracy, **kwargs):
        return seeded(few, settings, cbs, model, dls, metrics=metrics, **kwargs)
    return make

@pytest.fixture(scope='session')
def rec(few, settings):
    "The record of two fits, three epochs, training and validation"
    return two_fits(few, settings)
