"""What a picture says, measured: the texts that were drawn, those that lie over another, those that are cut off."""
import warnings
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.collections import QuadMesh
from matplotlib.text import Text
from torch import nn

from fastai_actstats.all import Bins, Record
from fastai_actstats.core.layers import choose, type_name
from fastai_actstats.core.ring import Ring
from fastai_actstats.kernels.dispatch import fold_all
from fastai_actstats.kernels.eager import empty


def texts(fig):
    "(text, its box in pixels) of all that is drawn"
    found, draw = [], Text.draw
    def see(self, renderer):
        draw(self, renderer)
        box = Text.get_window_extent(self)  # without an arrow
        if self.get_visible() and self.get_text().strip(): found.append((self.get_text(), box))
    for mesh in fig.findobj(QuadMesh): mesh.set_visible(False)  # no text in there, and most of the time
    fig.canvas.draw()  # the layout is settled
    with patch.object(Text, 'draw', see): fig.canvas.draw()
    return found

def wrong(fig, slack=1.):
    "Pairs of texts that lie over each other, and texts that are cut off, by more than `slack` pixels"
    found = texts(fig)
    box = np.array([[b.x0, b.y0, b.x1, b.y1] for _, b in found]).reshape(-1, 4)
    across = np.minimum(box[:, None, 2], box[None, :, 2]) - np.maximum(box[:, None, 0], box[None, :, 0])
    along = np.minimum(box[:, None, 3], box[None, :, 3]) - np.maximum(box[:, None, 1], box[None, :, 1])
    over = np.argwhere(np.triu((across > slack) & (along > slack), 1))
    wide, high = fig.canvas.get_width_height()
    out = (box[:, :2] < -slack).any(1) | (box[:, 2] > wide + slack) | (box[:, 3] > high + slack)
    return [(found[i][0], found[j][0]) for i, j in over], [found[i][0] for i in np.flatnonzero(out)]

def gpt(blocks=24, d=8):
    def linear(**sizes): return nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
    def block():
        parts = dict(ln_1=nn.LayerNorm(d), attn=linear(c_attn=(d, 3*d), c_proj=(d, d)), ln_2=nn.LayerNorm(d),
                     mlp=linear(c_fc=(d, 4*d), c_proj=(4*d, d)))
        return nn.ModuleDict(parts)
    body = dict(wte=nn.Embedding(99, d), wpe=nn.Embedding(9, d), h=nn.ModuleList(block() for _ in range(blocks)),
                ln_f=nn.LayerNorm(d))
    return nn.ModuleDict(dict(transformer=nn.ModuleDict(body), lm_head=nn.Linear(d, 99)))

def architectures():
    "Name → (names of its layers, their types); nothing is computed"
    import timm
    import torchvision
    from fastai.vision.models.xresnet import xresnet18, xresnet34

    from fastai_actstats.demo import reference_cnn
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        dense, deep = timm.create_model('densenet121'), torchvision.models.resnet152()
        every = choose(timm.create_model('densenet169'), lambda n, m: not list(m.children()))
        res = {'5 layers of the reference CNN': dict(list(choose(reference_cnn(False)).items())[:5]),
               '17 layers of xresnet18': dict(list(choose(xresnet18()).items())[:17]),
               '52 layers of xresnet34': dict(list(choose(xresnet34()).items())[:52]),
               '121 layers of densenet121': choose(dense, [nn.Conv2d, nn.Linear]),
               '148 layers of a GPT of 24 blocks': choose(gpt()),
               '311 layers of ResNet-152': choose(deep),
               '500 layers of densenet169': dict(list(every.items())[:500])}
        res = {k: {n: type_name(m) for n, m in layers.items()} for k, layers in res.items()}
        weights = {n: type_name(deep.get_submodule(n.rpartition('.')[0])) for n, _ in deep.named_parameters()}
        return res | {'467 weights of ResNet-152': weights}

def made_up(types, steps=60, n=120, bins=None, what='activations', seed=0, grows=1.):
    "A record of layers of these names and types: scales that drift with depth, halves of zeros behind a ReLU"
    rng, L = np.random.default_rng(seed), len(types)
    bins = bins or (Bins.symlog() if what == 'weights' else Bins(80, -10, 10))
    ring = Ring(steps, L, bins)
    blank = empty(L, bins=bins)
    kinds = np.array([{'Conv2d': 1., 'Linear': 1.4}.get(t, .5) for t in types.values()])
    scale = kinds*(1 + np.arange(L)/L)*(.05 if what == 'weights' else 1.)
    for step in range(steps):
        x = (rng.normal(size=(L, n))*(scale*(1 + grows*step/steps))[:, None]).astype(np.float32)
        if what != 'weights': x[1::3] = np.maximum(x[1::3], 0)
        x[L//2] *= 1 + 8*step/steps  # one layer that leaves the others
        rows = blank.clone()
        fold_all(list(torch.from_numpy(x)), list(range(L)), rows, bins)
        ring.push(rows, step, epoch=step//20)
    return Record(*ring.read(), list(types), bins, what, {n: dict(type=t, shape=(8, 4)) for n, t in types.items()})

def pictures(rec, both):
    "Name → function that draws it"
    run = rec[[0]].replace(layers=['loss'], what='run', info={})
    a = SimpleNamespace(rec=rec, both=both, told=rec.replace(run=run))
    return {'color_dim': lambda: a.rec.color_dim(), 'color_dim share': lambda: a.rec.color_dim(share=True),
            'color_dim auto': lambda: a.rec.color_dim(ylim='auto'), 'plot_stats': lambda: a.rec.plot_stats(),
            'heatmap': lambda: a.rec.heatmap(), 'ridge': lambda: a.rec.ridge(),
            'first_last': lambda: a.rec.first_last(), 'plot_depth': lambda: a.rec.plot_depth(),
            'show': lambda: a.rec.show(), 'color_dim run': lambda: a.told.color_dim(run=True),
            'plot_stats run': lambda: a.told.plot_stats(run=True),
            'compare color_dim': lambda: a.both.color_dim(), 'compare plot_stats': lambda: a.both.plot_stats(),
            'difference': lambda: a.both.difference()}
