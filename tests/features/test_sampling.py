"""Samples of a trained model hold its activations."""

import numpy as np
import pytest
import torch
from torch import nn

from fastai_actstats.features.sampling import sample_activations


@pytest.mark.parametrize('pool', ['mean', 'max', None])
def test_samples_hold_the_activations(learner, pool):
    learn = learner()
    s = sample_activations(learn, ['0.2', '4.0', '5'], 100, pool=pool, seed=3)
    assert len(s) == 100 and s.info['seen'] == len(learn.dls.valid_ds) and s.layers == ['0.2', '4.0', '5']
    x, y = map(torch.stack, zip(*[learn.dls.valid_ds[i] for i in s.index]))
    with torch.no_grad():
        model = learn.model.eval()
        maps = model[0](x)
        expected = maps.flatten(1) if pool is None else maps.mean((2, 3)) if pool == 'mean' else maps.amax((2, 3))
        assert np.allclose(s.layer('0.2'), expected, atol=1e-6) and np.allclose(s.layer('5'), model(x), atol=1e-5)
        assert np.array_equal(s.target, y) and np.array_equal(s.prediction, model(x).argmax(1))
    with pytest.raises(IndexError, match="layer None is not among the 3 sampled: 0.2, 4.0, 5"): s.layer()

def test_bad_arguments(learner):
    with pytest.raises(TypeError, match="give dl="): sample_activations(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="layers='z' matches none"): sample_activations(learner(), 'z')
    wrong = learner(model=nn.Sequential(nn.Conv2d(3, 1, 3)))
    with pytest.raises(ValueError, match=r"shape \(64, 1, 28, 28\), in layer '0'"): sample_activations(wrong)

def test_a_torch_data_loader():
    data = torch.utils.data.TensorDataset(torch.randn(30, 4), torch.arange(30))
    s = sample_activations(nn.Sequential(nn.Linear(4, 3)), n=12, dl=torch.utils.data.DataLoader(data, batch_size=8))
    assert np.array_equal(s.target, s.index) and s.layer().shape == (12, 3)
