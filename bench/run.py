"""What recording the run itself (loss, learning rate, input, output, target) adds to a step: `python bench/run.py`

Processor time of one thread for a training step of the reference CNN and of a small transformer without watchers, with
`ActStats(run=False)` and with `ActStats()`, in alternation."""
import time

import torch
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner, set_seed
from measure import alternate, between, quiet, settings, write
from torch import nn

from fastai_actstats.all import ActStats
from fastai_actstats.demo import digits, reference_cnn

WAYS = {'plain': list, 'run=False': lambda: [ActStats(run=False)], 'ActStats': lambda: [ActStats()]}

class Words(nn.Module):
    "A small transformer that guesses the next word"
    def __init__(self, words=200, wide=64):
        super().__init__()
        self.words, self.head = nn.Embedding(words, wide), nn.Linear(wide, words)
        self.layers = nn.Sequential(*[nn.TransformerEncoderLayer(wide, 4, 2*wide, dropout=0., batch_first=True)
                                      for _ in range(2)])
    def forward(self, x): return self.head(self.layers(self.words(x)))

def tokens():
    ids = torch.randint(0, 200, (1024, 33))
    data = torch.utils.data.TensorDataset(ids[:, :-1], ids[:, 1:])
    return DataLoaders.from_dsets(data, data, bs=32, device=torch.device('cpu'), num_workers=0)

def main():
    torch.set_num_threads(1)
    rows = []
    for model, dls, make in (('reference CNN', digits(), reference_cnn), ('transformer', tokens(), Words)):
        ways = {}
        for name, cbs in WAYS.items():
            set_seed(42)
            learn = quiet(Learner(dls, make(), loss_func=CrossEntropyLossFlat(), cbs=cbs()))
            ways[name] = lambda learn=learn: learn.fit(1, 1e-3)
        times = alternate(ways, settings().getint('rounds'), time.process_time)
        of = {name: [t/len(dls.train)*1e6 for t in some] for name, some in times.items()}
        for name, base in (('run=False', 'plain'), ('ActStats', 'run=False')):
            more = [a - b for a, b in zip(of[name], of[base])]
            rows.append({'model': model, 'watched by': name, 'us a step': sorted(of[name])[len(more)//2],
                         'against': base, 'adds, us': sorted(more)[len(more)//2], 'adds, quartiles': between(more)})
            print(rows[-1], flush=True)
    write('run', rows)

if __name__ == '__main__': main()
