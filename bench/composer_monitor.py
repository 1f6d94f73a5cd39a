"""Beside Composer's `ActivationMonitor`: `python bench/composer_monitor.py`

Composer (mosaicml 0.32) needs torch 2.7 or older, so this has an environment of its own: `pip install mosaicml`
there, and then this package with its extra `demo`. The reference CNN on the demo's digits, epochs in alternation:
fastai's loop plain and with ActStats, Composer's loop plain and with its monitor, both recording every step. Each is
compared with its own plain loop."""
import logging
import warnings

import pandas as pd
import torch
from composer import Trainer
from composer.callbacks import ActivationMonitor
from composer.loggers import InMemoryLogger
from composer.models import ComposerModel
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from measure import added, alternate, quiet, settings, write
from torch.utils.data import DataLoader, TensorDataset

from fastai_actstats.all import ActStats
from fastai_actstats.demo import digits, reference_cnn


class Classifier(ComposerModel):
    def __init__(self):
        super().__init__()
        self.net, self.how_wrong = reference_cnn(), CrossEntropyLossFlat()
    def forward(self, batch): return self.net(batch[0])
    def loss(self, outputs, batch): return self.how_wrong(outputs, batch[1])

def with_fastai(dls, cbs):
    learn = quiet(Learner(dls, reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=cbs))
    return lambda: learn.fit(1, 1e-3)

def with_composer(dls, callbacks):
    model, (x, y) = Classifier(), (torch.cat(parts)
                                   for parts in zip(*((x.as_subclass(torch.Tensor), y.as_subclass(torch.Tensor))
                                                      for x, y in dls.train)))
    batches = DataLoader(TensorDataset(x, y), batch_size=dls.train.bs, shuffle=True)
    trainer = Trainer(model=model, train_dataloader=batches, device='cpu', progress_bar=False,
                      optimizers=torch.optim.Adam(model.parameters(), 1e-3), callbacks=callbacks,
                      loggers=InMemoryLogger(), max_duration='1000ep')
    return lambda: trainer.fit(duration='1ep')

def main():
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    set_seed(42)
    dls = digits()
    ways = {'fastai, plain': with_fastai(dls, []), 'fastai, ActStats': with_fastai(dls, [ActStats()]),
            'Composer, plain': with_composer(dls, []),
            'Composer, ActivationMonitor': with_composer(dls, [ActivationMonitor(interval='1ba')])}
    times = alternate(ways, settings().getint('training_rounds'))
    ms = {name: [1e3*s/len(dls.train) for s in t] for name, t in times.items()}
    rows = [{'loop and watcher': name} | added(t, ms[name.split(',')[0] + ', plain']) for name, t in ms.items()]
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('composer_monitor', rows)

if __name__ == '__main__': main()
