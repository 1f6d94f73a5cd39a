"""A look leaves nothing behind, whatever goes in and however it ends."""
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.basics import Learner, set_seed
from helpers import hooks_on
from PIL import Image
from torch import nn

from fastai_actstats.callbacks.sample import ActSample
from fastai_actstats.demo import reference_cnn
from fastai_actstats.features.evaluation import evaluation
from fastai_actstats.features.filters import show_filters
from fastai_actstats.features.inputs import prepare
from fastai_actstats.features.maps import feature_maps, layer_table
from fastai_actstats.features.pages import save_feature_maps
from fastai_actstats.features.pictures import show_feature_maps
from fastai_actstats.features.run import ModelRun
from fastai_actstats.features.sampling import sample_activations


class Restless(nn.Module):
    "Everything that a forward pass in eval mode may change"
    def __init__(self):
        super().__init__()
        self.bn, self.conv, self.hidden, self.cache = nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3), [0], {'a': 1}
        self.register_buffer('count', torch.zeros(3))

    def forward(self, x):
        self.count += 1
        self.hidden[0], self.cache['b'], self.new = self.hidden[0] + 1, 2, x
        nn.functional.batch_norm(x, self.bn.running_mean, self.bn.running_var, training=True)
        self.conv.bias.requires_grad_(False)
        x = x + torch.randn(1) + random.random() + float(np.random.rand())
        return self.conv(self.bn(x))

def rng(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

def state(model):
    return ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()], hooks_on(model),
            {k: v.tolist() for k, v in model.state_dict().items()}, [sorted(vars(m)) for m in model.modules()],
            [p.grad for p in model.parameters()], [p.device for p in model.parameters()], rng())

@pytest.fixture
def restless():
    model = Restless()
    model.bn.eval()  # a frozen layer in a model that trains
    model.conv.weight.requires_grad_(False)
    model.bn.register_forward_hook(lambda *args: None)
    return model

X = torch.randn(2, 1, 8, 8)

@pytest.mark.parametrize('end', [None, ValueError, KeyboardInterrupt])
def test_evaluation_puts_everything_back(restless, end):
    before = state(restless), list(restless.hidden), dict(restless.cache)
    hidden, mean = restless.hidden, restless.bn.running_mean
    try:
        with evaluation(restless):
            assert not torch.is_grad_enabled() and not any(m.training for m in restless.modules())
            restless(X)
            restless.bn.running_mean = torch.ones(1)
            restless.register_forward_hook(lambda *args: None)
            if end: raise end
    except (ValueError, KeyboardInterrupt): pass
    assert (state(restless), restless.hidden, restless.cache) == before
    assert restless.hidden is hidden and restless.bn.running_mean is mean and torch.is_grad_enabled()

def looks(learn, tmp_path):
    "Every look there is"
    return [lambda: layer_table(learn), lambda: list(feature_maps(learn)), lambda: next(feature_maps(learn)),
            lambda: show_feature_maps(learn, 1, '0.0'), lambda: save_feature_maps(learn, 1, tmp_path, progress=False),
            lambda: show_filters(learn, '0.0'), lambda: sample_activations(learn, n=20)]

def test_every_look_leaves_no_trace(learner, tmp_path):
    learn = learner(dls=None)
    learn.model[1].eval()
    for look in looks(learn, tmp_path):
        before = state(learn.model), learn.dls.valid.rng.getstate(), learn.dls.train.rng.getstate()
        look()
        assert (state(learn.model), learn.dls.valid.rng.getstate(), learn.dls.train.rng.getstate()) == before

def test_nor_does_one_that_fails(learner, tmp_path, monkeypatch):
    learn = learner()
    def fail(self, x): raise MemoryError('none left')
    monkeypatch.setattr(nn.Flatten, 'forward', fail)
    for look in looks(learn, tmp_path):
        before = state(learn.model)
        try: look()
        except ValueError as e: assert "'5' (Flatten): none left" in str(e)
        assert state(learn.model) == before

def test_training_goes_on_as_if_nobody_had_looked(learner, tmp_path):
    def weights(looking):
        learn = learner(cbs=ActSample(n=50, every_epoch=True) if looking else None)
        for _ in range(2):
            learn.fit(1, 0.05)
            if looking:
                for look in looks(learn, tmp_path): look()
        return [p.clone() for p in learn.model.parameters()], rng()
    (a, after_a), (b, after_b) = weights(False), weights(True)
    assert all(torch.equal(p, q) for p, q in zip(a, b)) and after_a == after_b

def test_compiled_and_wrapped_models_are_looked_into(settings):
    set_seed(settings.seed)
    model, x = reference_cnn(), torch.randn(1, 1, 28, 28)
    plain = layer_table(model, x)
    compiled = torch.compile(model, backend='eager')
    with torch.no_grad(): compiled(x)
    for wrapped in (compiled, nn.DataParallel(model)):
        assert layer_table(wrapped, x).equals(plain)
        assert [m.maps.sum().item() for m in feature_maps(wrapped, x)] == [m.maps.sum().item()
                                                                           for m in feature_maps(model, x)]

# what goes in

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A learner on image files, built by fastai's data block, and the files"
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, Normalize, Resize
    path = tmp_path_factory.mktemp('photos')
    for i in range(4):
        Image.fromarray(np.random.RandomState(i).randint(0, 255, (40, 30, 3), np.uint8)).save(path/f'{i}.png')
    files = sorted(path.glob('*.png'))
    block = DataBlock((ImageBlock, CategoryBlock), get_y=lambda f: int(f.stem) % 2, splitter=IndexSplitter([2, 3]),
                      item_tfms=Resize(16),
                      batch_tfms=Normalize.from_stats([.4]*3, [.2]*3, cuda=False))
    dls = block.dataloaders(files, bs=2, num_workers=0, device=torch.device('cpu'))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 16, 16))
    return SimpleNamespace(learn=Learner(dls, model, loss_func=nn.CrossEntropyLoss()), files=files, path=path)

def test_every_kind_of_input_goes_through_the_learners_transforms(photos):
    learn, file = photos.learn, photos.files[2]
    batch, = [x for x, y in learn.dls.valid]
    image = Image.open(file)
    inputs = {'index': 0, 'from the end': -2, 'path': file, 'text': str(file), 'PIL': image, 'array': np.asarray(image),
              'uint8 tensor': torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), 'batch': batch[:1],
              'one image': batch[0]}
    for kind, x in inputs.items():
        run = ModelRun(learn, x)
        assert torch.equal(run.inputs[0], batch[:1]), kind
        size = (40, 30, 3) if kind in ('path', 'text', 'PIL', 'array', 'uint8 tensor') else (16, 16, 3)
        assert run.image.shape == size, kind
    # as it was before normalising
    assert np.abs(ModelRun(learn, 0).image - (batch[0]*.2 + .4).permute(1, 2, 0).numpy()).max() < 1/255 + 1e-6

def test_bad_input_is_told_in_a_sentence(photos, learner):
    learn = photos.learn
    (photos.path/'broken.jpg').write_bytes(b'\xff\xd8 no picture')
    digits = learner()
    lazy = nn.Sequential(nn.LazyLinear(2))
    for look, kind, said in [
        (lambda: ModelRun(learn, photos.path/'broken.jpg'), ValueError, 'cannot identify image file'),
        (lambda: ModelRun(learn, photos.path/'none.png'), FileNotFoundError, 'there is no file'),
        (lambda: ModelRun(learn, 2), IndexError, 'item 2 is not among the 2 of the validation set'),
        (lambda: ModelRun(digits, 'some text'), ValueError, "no input can be made of 'some text'"),
        (lambda: ModelRun(digits, Image.new('L', (28, 28))), ValueError, 'no input can be made of a Image'),
        (lambda: ModelRun(learn.model, 3), TypeError, 'a model has no transforms'),
        (lambda: ModelRun('resnet', 3), TypeError, 'a str is neither a Learner nor a model'),
        (lambda: ModelRun(lazy, torch.zeros(1, 2)), ValueError, 'lazy layers'),
        (lambda: layer_table(learn, torch.zeros(2, 1, 16, 16)), ValueError,
         r"shape \(2, 1, 16, 16\), in layer '0' \(Conv2d\)"),
        (lambda: feature_maps(learn, 0, 'conv*'), ValueError, 'matches none of the'),
    ]:
        with pytest.raises(kind, match=said) as e: look()
        assert len(str(e.value).splitlines()) == 1

def test_inputs_follow_the_models_device_and_precision():
    model = nn.Linear(3, 2).double()
    (x,), image = prepare(model, torch.ones(2, 3))
    assert x.dtype == torch.float64 and image is None
    (tokens,), _ = prepare(nn.Embedding(4, 2).half(), torch.tensor([[1, 2]]))
    assert tokens.dtype == torch.int64
