"""Whole training steps: `python bench/training.py`

Plain, with ours, with fastai's `ActivationStats(with_hist=True)`, and with a hook that does nothing but `torch.sum`,
epochs in alternation: on the CPU the reference CNN on real digits, a ResNet-18 and a small transformer on random
inputs; on a GPU a ResNet-50 and a transformer of some 100 million parameters, both in bfloat16, with the peak of
memory.

Beside the reference CNN also other tools, where they are installed (`pip install neural-observatory
torchinstruments`), each recording activations at every step. Composer's `ActivationMonitor` needs an environment of
its own: `bench/composer_monitor.py`."""
import logging
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from statistics import median

import pandas as pd
import torch
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, set_seed
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.hook import ActivationStats, Hook
from measure import added, alternate, between, quiet, settings, timed, write
from torch import nn

from fastai_actstats.all import ActStats
from fastai_actstats.callbacks.hooks import Tap
from fastai_actstats.core.accumulator import Recorder
from fastai_actstats.core.layers import choose
from fastai_actstats.demo import digits, reference_cnn

GPU = torch.cuda.is_available()
DEVICE = 'cuda' if GPU else 'cpu'

def random_batches(x, n):
    "The same batch `n` times, there already, so that nothing but the step takes time"
    x, y = x.to(DEVICE), torch.randint(0, 10, x.shape[:1], device=DEVICE)
    return DataLoaders(*(DataLoader(batches, bs=None, num_workers=0) for batches in ([(x, y)]*n, [(x[:1], y[:1])])),
                       device=DEVICE)

def resnet(name, size, bs, n):
    import torchvision
    return lambda: getattr(torchvision.models, name)(weights=None,
                                                     num_classes=10), random_batches(torch.randn(bs, 3, size, size), n)

class Transformer(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.embed, self.head = nn.Embedding(100, width), nn.Linear(width, 10)
        block = nn.TransformerEncoderLayer(width, width//32, 4*width, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
    def forward(self, x): return self.head(self.encoder(self.embed(x)).mean(1))

def transformer(width, layers, tokens, bs, n):
    return lambda: Transformer(width, layers), random_batches(torch.randint(0, 100, (bs, tokens)), n)

def models():
    "Name → how the model is made, and its batches"
    s = settings()
    n = s.getint('training_batches')
    size = lambda kind: [s.getint(f'{kind}_{name}') for name in ('width', 'layers', 'tokens', 'batch')]
    if GPU:
        return {'ResNet-50, bfloat16': resnet('resnet50', s.getint('gpu_resnet_size'), s.getint('gpu_resnet_batch'), n),
                'transformer, bfloat16': transformer(*size('gpu_transformer'), n)}
    return {'reference CNN': (reference_cnn, digits()),
            'ResNet-18': resnet('resnet18', s.getint('resnet_size'), s.getint('resnet_batch'), n),
            'transformer': transformer(*size('transformer'), n)}

class NeuralObservatory(Callback):
    "Statistics only, of activations, at every step"
    def before_fit(self):
        from neural_observatory import Observatory, ObservatoryConfig
        logging.getLogger('neural_observatory').setLevel(logging.ERROR)
        self.seen = Observatory(self.model, ObservatoryConfig(stats_only_mode=True, activation_sample_rate=1,
                                                              gradient_sample_rate=10**9, parameter_sample_rate=10**9))
        self.seen.watch()
    def before_batch(self): self.seen.step()
    def after_fit(self): self.seen.stop()

class TorchInstruments(Callback):
    "Every forward pass"
    def before_fit(self):
        from torchinstruments import inject_observer
        from torchinstruments.sampling import AlwaysSampler
        self.folder = tempfile.mkdtemp()
        inject_observer(self.model, output_dir=self.folder, sampler=AlwaysSampler())
    def after_fit(self):
        from torchinstruments import remove_observer
        remove_observer(self.model)
        shutil.rmtree(self.folder, ignore_errors=True)

class OneRead(Callback):
    "`torch.sum` of every activation and nothing else: what no watcher can do without"
    def before_fit(self): self.handles = [m.register_forward_hook(self.read) for m in choose(self.model, None).values()]
    def read(self, module, args, output): output.detach().sum()
    def after_fit(self): [h.remove() for h in self.handles]

WATCHERS = {'plain': lambda: [], 'ours': lambda: [ActStats()], 'fastai': lambda: [ActivationStats(with_hist=True)],
            'sum': lambda: [OneRead()]}
OTHERS = {name: lambda cb=cb: [cb()] for name, cb in (('neural_observatory', NeuralObservatory),
                                                      ('torchinstruments', TorchInstruments)) if find_spec(name)}

INSIDE = {'ours': [(Tap, '__call__'), (Recorder, 'open'), (Recorder, 'close')],
          'fastai': [(Hook, 'hook_fn'), (ActivationStats, 'after_batch')],
          'sum': [(OneRead, 'read')]}  # what a watcher does in a step
SPENT = [0.]
for owner, name in sum(INSIDE.values(), []): timed(owner, name, SPENT)

def measure(make, data, watchers, rounds):
    "Watcher → milliseconds a step in each round; on the CPU those in its own code too, on a GPU the peak of memory"
    ways, peaks, inside = {}, {}, {name: [] for name in watchers}
    for name, cbs in watchers.items():
        set_seed(42)
        learn = quiet(Learner(data, make(), loss_func=CrossEntropyLossFlat(),
                              cbs=cbs() + ([MixedPrecision(amp_mode=AMPMode.BF16)] if GPU else [])))
        def fit(learn=learn, name=name):
            if GPU: torch.cuda.reset_peak_memory_stats()
            SPENT[:] = [0.]
            learn.fit(1, 1e-3)
            inside[name].append(SPENT[0]/len(data.train)*1e3)
            if GPU: peaks[name] = torch.cuda.max_memory_allocated()/2**20
            learn.recorder.losses.clear()
        ways[name] = fit
    times = {name: [t/len(data.train)*1e3 for t in ts]
             for name, ts in alternate(ways, rounds, sync=torch.cuda.synchronize if GPU else None).items()}
    return {name: dict(step=ts) | (dict(peak=peaks[name]) if GPU else dict(inside=inside[name][1:]))
            for name, ts in times.items()}

def main():
    warnings.filterwarnings('ignore')
    s, rows = settings(), []
    for name, (make, data) in models().items():
        parts = [measure(make, data, WATCHERS, s.getint('training_rounds'))]
        if OTHERS and name == 'reference CNN':
            parts.append(measure(make, data, {'plain': WATCHERS['plain']} | OTHERS, 2))
        fastai = parts[0]['fastai'] | added(parts[0]['fastai']['step'], parts[0]['plain']['step'])
        for part in parts:
            plain = part['plain']['step']
            for w, m in part.items():
                if w == 'plain' and part is not parts[0]: continue
                row = {'model': name, 'watched by': w} | added(m['step'], plain)
                row["of fastai's"] = row['adds, ms']/fastai['adds, ms']
                if GPU: row['peak, MiB'] = m['peak']
                elif w in INSIDE:
                    own, whole = median(m['inside']), median(s - i for s, i in zip(m['step'], m['inside']))
                    row |= {'in its code, ms': own, 'in its code, quartiles': between(m['inside']),
                            'in its code': own/whole,
                            "in its code, of fastai's": own/median(fastai['inside'])}
                rows.append(row)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('training', rows)

if __name__ == '__main__': main()
