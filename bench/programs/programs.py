"""The programs: what somebody might train, each in some seconds, with what it is measured by

A program is a function from a seed to a `Program`, whose parts mutations change before a `Learner` is made of them."""
from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache, partial

import torch
from fastai.basics import (
    SGD,
    Adam,
    BCEWithLogitsLossFlat,
    Callback,
    CrossEntropyLossFlat,
    L1LossFlat,
    Lamb,
    Learner,
    MSELossFlat,
    RMSProp,
    ranger,
    set_seed,
)
from fastai.callback.training import GradientClip
from fastai.collab import EmbeddingDotBias, EmbeddingNN
from fastai.layers import ResBlock
from fastai.tabular.model import TabularModel
from torch import nn
from torch.nn import functional as F

from . import data

# what a prediction is worth: higher is better

def accuracy(p, y, axis=1): return (p.argmax(axis) == y).float().mean().item()
def binary(p, y):
    "Mean of the accuracies of both classes, so that a rare one counts"
    right = ((p > 0).float() == y).float()
    return ((right[y > .5].mean() + right[y < .5].mean())/2).item()
def r2(p, y): return max(-1., 1 - ((p.view_as(y) - y).square().mean()/y.var()).item())
def likelihood(p, y): return -F.cross_entropy(p.flatten(0, -2), y.flatten()).clamp(max=50).item()
def overlap(p, y):
    "Mean intersection over union of the classes that are there"
    p = p.argmax(1)
    return sum(((p == c) & (y == c)).sum().item()/max(1, ((p == c) | (y == c)).sum().item()) for c in range(3))/3

@dataclass
class Program:
    "A training before its `Learner` is made"
    dls:object
    model:nn.Module
    loss:object
    metric:Callable # (predictions, targets) -> float, higher is better
    lr:float=1e-3
    epochs:int=3
    opt:Callable=Adam
    flat:bool=False # `fit` instead of `fit_one_cycle`?
    kwargs:dict=field(default_factory=dict) # Of `Learner`: `wd`, `splitter`, ...
    cbs:list=field(default_factory=list)
    prepare:Callable|None=None # (learner): before it trains
    notes:str='' # What a mutation did

    def learner(self, cbs=()):
        return Learner(self.dls, self.model, loss_func=self.loss, opt_func=self.opt, lr=self.lr,
                       cbs=[*self.cbs, *cbs], **self.kwargs)

    def train(self, learn):
        if self.prepare: self.prepare(learn)
        with learn.no_bar(), learn.no_logging():
            (learn.fit if self.flat else learn.fit_one_cycle)(self.epochs, self.lr)

    def worth(self, learn):
        "Of the trained model on what was held out; nan where its predictions are not finite"
        model = learn.model.eval()
        with torch.no_grad():
            pairs = [(model(*b[:self.dls.n_inp]), b[self.dls.n_inp:]) for b in learn.dls.valid]
        preds = [torch.cat([p[i] for p, _ in pairs]).float() for i in range(len(pairs[0][0]))] \
            if isinstance(pairs[0][0], tuple) else torch.cat([p for p, _ in pairs]).float()
        targets = [torch.cat(ys) for ys in zip(*(y for _, y in pairs))]
        if not all(p.isfinite().all() for p in (preds if isinstance(preds, list) else [preds])): return float('nan')
        return self.metric(preds, targets[0] if len(targets) == 1 else targets)

PROGRAMS = {} # name → (kind of work, function)

def program(kind):
    def add(f):
        PROGRAMS[f.__name__] = kind, f
        return f
    return add

CE, BCE, MSE = CrossEntropyLossFlat, BCEWithLogitsLossFlat, MSELossFlat
def sgd(mom=.9): return partial(SGD, mom=mom)

class Bfloat16(Callback):
    "Forward pass and loss in bfloat16, as autocast chooses"
    def before_batch(self): self.context = torch.autocast('cpu', torch.bfloat16); self.context.__enter__()
    def after_loss(self): self.leave()
    def after_cancel_batch(self): self.leave()
    def leave(self):
        if self.context: self.context.__exit__(None, None, None)
        self.context = None
    context = None

# images

def conv_net(channels=(8, 16, 32), act=nn.ReLU, norm=None, outs=10, drop=0.):
    layers, size = [], 1
    for c in channels:
        layers += [nn.Conv2d(size, c, 3, 2, 1), *([norm(c)] if norm else []), act()]
        size = c
    head = [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head, nn.Linear(size, outs))

def mlp(ins, outs, width=64, depth=3, act=nn.ReLU, norm=None, drop=0.):
    layers, size = [], ins
    for _ in range(depth - 1):
        layers += [nn.Linear(size, width), *([norm(width)] if norm else []), act()]
        if drop: layers.append(nn.Dropout(drop))
        size = width
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(size, outs))

def digits(seed, n=3000, bs=64, **kwargs): return data.loaders(*data.digits(n, **kwargs), seed, bs)

@program('images')
def cnn_plain(seed): return Program(digits(seed), conv_net((16, 32, 64)), CE(), accuracy, 4e-3)

@program('images')
def cnn_batchnorm(seed):
    return Program(digits(seed), conv_net((8, 16, 32), norm=nn.BatchNorm2d), CE(), accuracy, .1, opt=sgd())

@program('images')
def cnn_gelu(seed):
    net = conv_net((12, 24, 48), nn.GELU, lambda c: nn.GroupNorm(4, c), drop=.1)
    return Program(digits(seed), net, CE(), accuracy, 3e-3, flat=True, kwargs=dict(wd=.05))

@program('images')
def cnn_bf16(seed):
    return Program(digits(seed), conv_net((8, 16, 32), norm=nn.BatchNorm2d), CE(), accuracy, 1e-2, cbs=[Bfloat16()])

@program('images')
def digits_mlp(seed): return Program(digits(seed), mlp(784, 10, 100), CE(), accuracy, .1, opt=sgd(0.), flat=True)

@program('images')
def digits_tanh(seed): return Program(digits(seed), mlp(784, 10, 64, 4, nn.Tanh), CE(), accuracy, 2e-3, opt=RMSProp)

@program('images')
def digits_logistic(seed):
    return Program(digits(seed), nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), CE(), accuracy, .03, opt=sgd(0.),
                   flat=True)

@program('residual')
def resnet(seed):
    blocks = ResBlock(1, 1, 8, stride=2), ResBlock(1, 8, 16, stride=2), ResBlock(1, 16, 32, stride=2)
    net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return Program(digits(seed, 2000), net, CE(), accuracy, 4e-2, epochs=5, opt=ranger)

class Residual(nn.Module):
    "As torchvision writes it: one ReLU module for both, a functional addition"
    def __init__(self, ins, outs, stride=2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs)
        self.conv2, self.bn2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(ins, outs, 1, stride, bias=False)
    def forward(self, x): return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + self.down(x))

@program('residual')
def resnet_sgd(seed):
    net = nn.Sequential(Residual(1, 8), Residual(8, 16), Residual(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(32, 10))
    return Program(digits(seed, 2000), net, CE(), accuracy, .05, opt=sgd(), flat=True)

class Functional(nn.Module):
    "Activations are functions: no module says where they are"
    def __init__(self, act=F.relu):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 12, 5, 2, 2), nn.Conv2d(12, 24, 3, 2, 1)
        self.fc1, self.fc2 = nn.Linear(24*49, 64), nn.Linear(64, 10)
        self.act = act
    def forward(self, x):
        x = self.act(self.conv2(self.act(self.conv1(x))))
        return self.fc2(self.act(self.fc1(x.flatten(1))))

@program('images')
def cnn_functional(seed): return Program(digits(seed), Functional(), CE(), accuracy, 2e-3)

@program('vision transformer')
def vit(seed):
    import timm
    net = timm.create_model('vit_tiny_patch16_224', img_size=28, patch_size=7, in_chans=1, num_classes=10, depth=3,
                            embed_dim=48, num_heads=3)
    return Program(digits(seed, 2000), net, CE(), accuracy, 4e-3, epochs=5, kwargs=dict(wd=.05))

# segmentation

class SmallUnet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        def block(i, o): return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())
        self.down1, self.down2, self.mid = block(1, c), block(c, 2*c), block(2*c, 4*c)
        self.up2, self.up1, self.out = block(6*c, 2*c), block(3*c, c), nn.Conv2d(c, 3, 1)
    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        m = self.mid(F.max_pool2d(b, 2))
        b = self.up2(torch.cat([F.interpolate(m, scale_factor=2), b], 1))
        return self.out(self.up1(torch.cat([F.interpolate(b, scale_factor=2), a], 1)))

@program('segmentation')
def unet(seed):
    return Program(data.loaders(*data.images_with_masks(400), seed, 16), SmallUnet(), CE(axis=1), overlap, 1e-2)

@program('segmentation')
def dilated(seed):
    convs = [nn.Sequential(nn.Conv2d(i, 16, 3, padding=d, dilation=d), nn.ReLU())
             for i, d in ((1, 1), (16, 2), (16, 4))]
    net = nn.Sequential(*convs, nn.Conv2d(16, 3, 1))
    return Program(data.loaders(*data.images_with_masks(400), seed, 16), net, CE(axis=1), overlap, 4e-2,
                   epochs=5, opt=Lamb)

# tabular

@program('tabular')
def tabular_embeddings(seed):
    x, y = data.table('autompg')
    cats = torch.stack([x[:, 0].long() - 3, x[:, 5].long() - 70, x[:, 6].long() - 1], 1)
    net = TabularModel([(6, 3), (13, 6), (3, 2)], 4, 3, [64, 32], ps=.05)
    classes = torch.bucketize(y, torch.tensor([19., 27.]))
    return Program(data.loaders((cats, data.standardised(x[:, 1:5])), classes, seed, 32), net, CE(), accuracy, 1e-2,
                   epochs=12)

@program('tabular')
def table_classes(seed):
    x, y = data.table('wine')
    return Program(data.loaders(data.standardised(x), y, seed, 16), mlp(13, 3, 32), CE(), accuracy, 3e-3, epochs=15)

@program('tabular')
def table_batchnorm(seed):
    x, y = data.table('breast_cancer')
    net = nn.Sequential(nn.BatchNorm1d(30), mlp(30, 2, 48, 4, norm=nn.BatchNorm1d, drop=.1))
    return Program(data.loaders(x, y, seed, 32), net, CE(), accuracy, 1e-2, epochs=8)

# regression

def flat(net): return nn.Sequential(net, nn.Flatten(0))

@program('regression')
def housing_units(seed):
    x, y = data.table('boston_housing')
    return Program(data.loaders(data.standardised(x), y, seed, 32), flat(mlp(13, 1)), MSE(), r2, 1e-2, epochs=20)

@program('regression')
def diabetes_units(seed):
    x, y = data.table('diabetes')
    return Program(data.loaders(data.standardised(x), y, seed, 32), flat(mlp(10, 1, 64, 2)), L1LossFlat(), r2, .05,
                   epochs=20, opt=ranger)

@program('regression')
def mpg_normalised(seed):
    x, y = data.table('autompg')
    return Program(data.loaders(data.standardised(x), data.standardised(y), seed, 32), flat(mlp(7, 1, 32, 3, nn.GELU)),
                   nn.HuberLoss(), r2, 5e-3, epochs=20, opt=sgd(.9), kwargs=dict(wd=1e-3))

@program('regression')
def linear_one_by_one(seed):
    x, y = data.table('diabetes')
    return Program(data.loaders(data.standardised(x), data.standardised(y), seed, 1), flat(nn.Linear(10, 1)), MSE(), r2,
                   1e-3, epochs=2, opt=sgd(0.), flat=True)

@program('regression')
def linear_units(seed):
    x, y = data.table('autompg')
    return Program(data.loaders(data.standardised(x), y, seed, 16), flat(nn.Linear(7, 1)), MSE(), r2, .5, epochs=15)

# text

class Tokens(nn.Module):
    "Embedding, a body over positions, a head for each position or for their mean"
    def __init__(self, body, vocab, outs, width=48, size=48, pooled=False, positions=0, drop=0.):
        super().__init__()
        self.embed, self.body, self.pooled = nn.Embedding(vocab, width), body, pooled
        self.position = nn.Parameter(torch.randn(positions, width)*.02) if positions else None
        self.drop, self.head = nn.Dropout(drop), nn.Linear(size, outs)
    def forward(self, x):
        x = self.embed(x)
        if self.position is not None: x = x + self.position
        x = self.body(self.drop(x))
        x = x[0] if isinstance(x, tuple) else x
        return self.head(self.drop(x.mean(1) if self.pooled else x))

class Encoder(nn.Module):
    def __init__(self, width=48, layers=2, causal=False, norm_first=True, act='gelu'):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2*width, .1, act, batch_first=True, norm_first=norm_first)
        self.encoder, self.causal = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), causal
    def forward(self, x):
        mask = torch.triu(torch.full((x.shape[1],)*2, -torch.inf), 1) if self.causal else None
        return self.encoder(x, mask=mask)

class Block(nn.Module):
    "Attention and an MLP on a residual stream, as GPTs write them"
    def __init__(self, width, heads=4):
        super().__init__()
        self.ln1, self.ln2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.proj = nn.Linear(width, 3*width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4*width), nn.Linear(4*width, width)
    def forward(self, x):
        q, k, v = (o.unflatten(-1, (self.heads, -1)).transpose(1, 2) for o in self.qkv(self.ln1(x)).chunk(3, -1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.out(F.gelu(self.fc(self.ln2(x))))

def language(seed, n=800):
    x, y, size = data.characters(n=n)
    return data.loaders(x, y, seed, 16), size

@program('language model')
def lm_lstm(seed):
    dls, size = language(seed)
    return Program(dls, Tokens(nn.LSTM(48, 64, batch_first=True), size, size, size=64), CE(), likelihood, 1e-2)

@program('language model')
def lm_transformer(seed):
    dls, size = language(seed)
    return Program(dls, Tokens(Encoder(causal=True), size, size, positions=48), CE(), likelihood, 3e-3, epochs=3)

@program('language model')
def lm_gpt_bf16(seed):
    dls, size = language(seed)
    net = Tokens(nn.Sequential(Block(48), Block(48), Block(48), nn.LayerNorm(48)), size, size, positions=48)
    return Program(dls, net, CE(), likelihood, 3e-3, epochs=3, cbs=[Bfloat16(), GradientClip(1.)], kwargs=dict(wd=.1))

@program('language model')
def lm_awd(seed):
    from fastai.callback.rnn import rnn_cbs
    from fastai.text.models import AWD_LSTM, get_language_model
    from fastai.text.models.awdlstm import awd_lstm_lm_config
    dls, size = language(seed, 600)
    config = dict(awd_lstm_lm_config, emb_sz=32, n_hid=48, n_layers=2)
    net = get_language_model(AWD_LSTM, size, config=config, drop_mult=.2)
    return Program(dls, First(net), CE(), likelihood, 3e-2, cbs=rnn_cbs(alpha=2, beta=1)[:1], epochs=5)

class First(nn.Module):
    "The first of what a model gives"
    def __init__(self, model): super().__init__(); self.model = model
    def forward(self, x): return self.model(x)[0]
    def reset(self): self.model.reset()

def paragraphs(seed):
    x, y, size = data.lines()
    return data.loaders(x, y, seed, 32), size

@program('text classification')
def text_gru(seed):
    dls, size = paragraphs(seed)
    net = Tokens(nn.GRU(48, 32, batch_first=True, bidirectional=True), size, 5, size=64, pooled=True, drop=.1)
    return Program(dls, net, CE(), accuracy, 5e-3, epochs=6)

@program('text classification')
def text_transformer(seed):
    dls, size = paragraphs(seed)
    net = Tokens(Encoder(norm_first=False, act='relu'), size, 5, pooled=True, positions=24)
    return Program(dls, net, CE(), accuracy, 2e-3, epochs=6)

class Convolved(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.conv, self.act = nn.Conv1d(width, width, 3, padding=1), nn.ReLU()
    def forward(self, x): return self.act(self.conv(x.transpose(1, 2))).transpose(1, 2)

@program('text classification')
def text_cnn(seed):
    dls, size = paragraphs(seed)
    return Program(dls, Tokens(Convolved(), size, 5, pooled=True), CE(), accuracy, 3e-3, epochs=6, flat=True)

# recommendation

@program('recommendation')
def taste_dot(seed):
    return Program(data.loaders(*data.ratings(), seed), EmbeddingDotBias(16, 200, 120, (0, 5.5)), MSE(), r2, 3e-2,
                   epochs=5, kwargs=dict(wd=.05))

@program('recommendation')
def taste_net(seed):
    net = EmbeddingNN([(200, 16), (120, 16)], [64, 32], y_range=(0, 5.5))
    return Program(data.loaders(*data.ratings(), seed), net, MSE(), lambda p, y: r2(p, y), 5e-3, epochs=5)

# other aims

def pictures(seed, n=2000):
    x, _ = data.digits(n)
    x = (x - x.min())/(x.max() - x.min())
    return data.loaders(x, x.clone(), seed)

@program('autoencoder')
def autoencoder(seed):
    net = nn.Sequential(mlp(784, 16, 128, 2), nn.ReLU(), mlp(16, 784, 128, 2), nn.Unflatten(1, (1, 28, 28)))
    return Program(pictures(seed), net, MSE(), r2, 5e-3, epochs=4)

@program('autoencoder')
def autoencoder_conv(seed):
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.SiLU(),
                        nn.ConvTranspose2d(8, 8, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid())
    return Program(pictures(seed), net, nn.BCELoss(), r2, 1e-2, epochs=4)

@program('denoising')
def denoiser(seed):
    x, _ = data.digits(1500)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    net = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1),
                        nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 1, 3, padding=1))
    return Program(data.loaders(x + noise, noise, seed), net, MSE(), r2, 5e-3, epochs=3)

class TwoHeads(nn.Module):
    def __init__(self, body, size, outs): super().__init__(); self.body, self.kind, self.ink = body, *(
        nn.Linear(size, o) for o in (outs, 1))
    def forward(self, x):
        x = F.relu(self.body(x))
        return self.kind(x), self.ink(x)[:, 0]

def both(p, y, ink): return F.cross_entropy(p[0], y) + F.mse_loss(p[1], ink)

@program('two losses')
def class_and_ink(seed):
    x, y = data.digits(3000)
    ink = data.standardised(x.mean((1, 2, 3)))
    return Program(data.loaders(x, (y, ink), seed), TwoHeads(conv_net((8, 16, 32), outs=32), 32, 10), both,
                   lambda p, y: accuracy(p[0], y[0]) + r2(p[1], y[1]), 2e-2)

class Variational(nn.Module):
    def __init__(self): super().__init__(); self.encode, self.decode = mlp(784, 16, 128, 2), mlp(8, 784, 128, 2)
    def forward(self, x):
        mean, log_var = self.encode(x).chunk(2, 1)
        z = mean + (log_var/2).exp()*torch.randn_like(mean) if self.training else mean
        return self.decode(z).view_as(x), mean, log_var

def elbo(p, y):
    picture, mean, log_var = p
    return F.mse_loss(picture, y) + 2e-4*(mean.square() + log_var.exp() - log_var - 1).sum(1).mean()

@program('two losses')
def variational(seed): return Program(pictures(seed), Variational(), elbo, lambda p, y: r2(p[0], y), 4e-3, epochs=4)

@program('sequences')
def forecast(seed):
    class Forecast(nn.Module):
        def __init__(self): super().__init__(); self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)
        def forward(self, x): return self.head(self.rnn(x)[0][:, -1])
    return Program(data.loaders(*data.series(), seed), Forecast(), MSE(), r2, 1e-2, epochs=5)

# fine-tuning: a body that has learned the digits below five, a new head for the others

def trained_body(seed): return deepcopy(_trained_body(seed))

@lru_cache
def _trained_body(seed):
    set_seed(1000 + seed)
    net = conv_net((16, 32, 64), norm=nn.BatchNorm2d, outs=5)
    learn = Learner(data.loaders(*data.digits(2000, range(5)), seed), net, loss_func=CE())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 1e-2)
    return net[:-1]

def others(seed):
    x, y = data.digits(2000, range(5, 10))
    return data.loaders(x, y - 5, seed)

def split(model): return [list(model[0].parameters()), list(model[1].parameters())]

@program('fine-tuning')
def head_only(seed):
    body = trained_body(seed)
    set_seed(seed)
    net = nn.Sequential(body, nn.Linear(64, 5))
    return Program(others(seed), net, CE(), accuracy, 3e-2, epochs=4, kwargs=dict(splitter=split),
                   prepare=lambda learn: learn.freeze())

@program('fine-tuning')
def whole_slowly(seed):
    body = trained_body(seed)
    set_seed(seed)
    net = nn.Sequential(body, nn.Linear(64, 5))
    return Program(others(seed), net, CE(), accuracy, slice(1e-3, 1e-2), kwargs=dict(splitter=split))

@program('fine-tuning')
def frozen_embedding(seed):
    dls, size = paragraphs(seed)
    net = Tokens(nn.GRU(48, 32, batch_first=True), size, 5, size=32, pooled=True)
    net.embed.weight.requires_grad_(False)
    return Program(dls, net, CE(), accuracy, 1e-2, epochs=8)

# rare and binary classes

@program('imbalanced')
def one_in_fifty(seed):
    x, y = data.digits(4000)
    keep = (y != 7) | (torch.arange(len(y)) % 5 == 0)
    net, loss = flat(conv_net((8, 16, 32), outs=1)), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(15.))
    return Program(data.loaders(x[keep], (y[keep] == 7).float(), seed), net, loss, binary, 1e-2, epochs=4)

@program('binary')
def even_or_odd(seed):
    x, y = data.digits(3000)
    return Program(data.loaders(x, (y % 2).float(), seed), flat(conv_net((16, 32, 32), nn.SiLU, outs=1)), BCE(), binary,
                   5e-3)

@program('binary')
def tumours(seed):
    x, y = data.table('breast_cancer')
    net = flat(mlp(30, 1, 32, 2, nn.Sigmoid))
    return Program(data.loaders(data.standardised(x), y.float(), seed, 32), net, BCE(), binary, .02, epochs=10)

@program('binary')
def tumours_logistic(seed):
    x, y = data.table('breast_cancer')
    return Program(data.loaders(data.standardised(x), y.float(), seed, 4), flat(nn.Linear(30, 1)), BCE(), binary, 1e-2,
                   epochs=3, opt=sgd(0.), flat=True)

def make(name, seed):
    "The program, its weights and order of batches decided by `seed`"
    set_seed(seed)
    return PROGRAMS[name][1](seed)
