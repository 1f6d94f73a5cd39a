"""Whole training steps: `python bench/training.py`

Plain, with ours, and with fastai's `ActivationStats(with_hist=True)`, epochs in alternation: the reference CNN on real digits, a
ResNet-18 and a small transformer on random inputs."""
import warnings

import pandas as pd
import torch
from fastai.basics import CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, set_seed
from fastai.callback.hook import ActivationStats
from measure import alternate, settings, spread, write
from torch import nn

from fastai_actstats.all import ActStats
from fastai_actstats.demo import digits, reference_cnn

def random_batches(x, y, bs):
    data = list(zip(x, y))
    return DataLoaders(DataLoader(data, bs=bs, num_workers=0), DataLoader(data[:1], bs=1, num_workers=0), device='cpu')

def resnet(s):
    from torchvision.models import resnet18
    size, bs = s.getint('resnet_size'), s.getint('resnet_batch')
    return lambda: resnet18(weights=None, num_classes=10), random_batches(torch.randn(2*bs, 3, size, size), torch.randint(0, 10, (2*bs,)), bs), 2

class Transformer(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.embed, self.head = nn.Embedding(100, width), nn.Linear(width, 10)
        block = nn.TransformerEncoderLayer(width, 4, 4*width, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
    def forward(self, x): return self.head(self.encoder(self.embed(x)).mean(1))

def transformer(s):
    width, layers, tokens, bs = (s.getint(f'transformer_{n}') for n in ('width', 'layers', 'tokens', 'batch'))
    return lambda: Transformer(width, layers), random_batches(torch.randint(0, 100, (4*bs, tokens)), torch.randint(0, 10, (4*bs,)), bs), 4

WATCHERS = {'plain': lambda: [], 'ours': lambda: [ActStats()], 'fastai': lambda: [ActivationStats(with_hist=True)]}

def main():
    warnings.filterwarnings('ignore')
    s, dls, rows = settings(), digits(), []
    for name, (make, data, steps) in {'reference CNN': (reference_cnn, dls, len(dls.train)), 'ResNet-18': resnet(s),
                                      'transformer': transformer(s)}.items():
        ways = {}
        for watcher, cbs in WATCHERS.items():
            set_seed(42)
            learn = Learner(data, make(), loss_func=CrossEntropyLossFlat(), cbs=cbs())
            learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
            learn.logger = lambda *args: None
            ways[watcher] = lambda learn=learn: learn.fit(1, 1e-3)
        t = {w: {k: v/steps*1e3 for k, v in spread(x).items()} for w, x in alternate(ways, s.getint('rounds')).items()}
        ours, theirs = (t[w]['median'] - t['plain']['median'] for w in ('ours', 'fastai'))
        rows.append({'model': name, **{f'{w}, ms a step': x['median'] for w, x in t.items()}, **{f'{w}, quartiles': [x['low'], x['high']] for w, x in t.items()},
                     'ours adds, ms': ours, 'fastai adds, ms': theirs, 'ours adds': ours/t['plain']['median'], 'ours / fastai': ours/theirs})
    print(pd.DataFrame(rows)[['model', *(f'{w}, ms a step' for w in WATCHERS), 'ours adds, ms', 'fastai adds, ms', 'ours adds', 'ours / fastai']].round(3).to_string(index=False))
    write('training', rows)

if __name__ == '__main__': main()
