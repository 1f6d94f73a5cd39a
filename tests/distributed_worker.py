"""One of several processes that train together; started by test_distributed.py, which reads what it leaves.

python tests/distributed_worker.py OUT SCENARIO ...: what scenario `s` returns goes to OUT/s.RANK as a pickle."""
import os
import pickle
import signal
import sys
import time
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from fastai import torch_core
from fastai.basics import Callback, CrossEntropyLossFlat, DataLoader, DataLoaders, Learner, OptimWrapper, set_seed
from fastai.callback.fp16 import AMPMode, MixedPrecision
from fastai.callback.training import GradientAccumulation
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastai_actstats.all import (
    ActStats,
    CatchBatch,
    DeadUnits,
    Finding,
    GradStats,
    LiveStats,
    Record,
    SaveRecord,
    StopOnTrouble,
    WeightStats,
    merge_records,
)
from fastai_actstats.analysis.rules import RULES, Rule
from fastai_actstats.callbacks import distributed, live
from fastai_actstats.callbacks.loggers import StatsLogger
from fastai_actstats.callbacks.sinks import Sink
from fastai_actstats.core.summary import Summary
from fastai_actstats.demo import _mnist_5000, reference_cnn

SEED, BS, LR = 42, 16, 6e-2
DIGITS = None

def digits():
    global DIGITS
    if DIGITS is None:
        x, y = _mnist_5000()
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED))
        x = torch.tensor(x.copy(), dtype=torch.float32).view(-1, 1, 28, 28)[order]
        DIGITS = torch.utils.data.TensorDataset((x - x.mean())/x.std(), torch.tensor(y.tolist())[order])
    return DIGITS

def batches(rank, size, n):
    "The digits of a rank's first `n` batches: batch `i` of rank `r` is number `i*size + r` of all"
    return [j for i in range(n) for j in range((i*size + rank)*BS, (i*size + rank + 1)*BS)]

def loaders(train, valid=()):
    valid = valid or range(4000, 4000 + 2*BS)
    dls = [DataLoader(torch.utils.data.Subset(digits(), list(part)), bs=BS, shuffle=False, num_workers=0)
           for part in (train, valid)]
    return DataLoaders(*dls, device=torch.device('cpu'))

def learner(model, dls, cbs, **kwargs):
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), lr=LR, cbs=cbs, **kwargs)
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = lambda *args: None
    return learn

class KeepOfRank(Callback):
    "Every activation of the named layers, and the gradient there: the independent reference"
    order = 5
    def __init__(self, names): self.names = names
    def before_fit(self):
        self.kept, self.grads, self.handles = [], [], []
        for name, m in self.model.named_modules():
            if name.removeprefix('module.') in self.names:
                self.handles.append(m.register_forward_hook(self.hook(name.removeprefix('module.'))))
    def before_batch(self):
        if self.training: self.kept.append({}); self.grads.append({})
    def hook(self, name):
        def keep(m, i, o):
            if not self.training: return
            self.kept[-1][name] = o.detach().clone()
            o.register_hook(lambda g, at=self.grads[-1]: at.update({name: g.detach().clone()}))
        return keep
    def after_fit(self): [h.remove() for h in self.handles]

class Late(Callback):
    "This rank is late at the end of the fit"
    order = -21
    def __init__(self, rank, seconds): self.rank, self.seconds = rank, seconds
    def after_fit(self):
        if dist.get_rank() == self.rank: time.sleep(self.seconds)

class At(Callback):
    "Do something at a training step"
    order = 70
    def __init__(self, step, do): self.step, self.do, self.n = step, do, 0
    def after_batch(self):
        if self.training:
            self.n += 1
            if self.n == self.step: self.do()

def ddp(model, **kwargs): return DistributedDataParallel(model, **kwargs)

def model(): set_seed(SEED); return reference_cnn()

LAYERS, RELUS = ['0.0', '0.1', '1.0', '4.0'], ['0.2', '3.2']

def said(do):
    "What `do` warns of"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        do()
    return [str(w.message) for w in found if issubclass(w.category, UserWarning)]

# scenarios: what each returns is what the test sees

def equal(rank, size):
    "Two epochs with and without; every value kept"
    runs = {}
    for on in (False, True):
        stats, keep = ActStats(phase='both', bins=40, range=(-4, 4)), KeepOfRank(LAYERS + RELUS)
        grads, units = GradStats(), DeadUnits()
        learn = learner(ddp(model()), loaders(batches(rank, size, 6)), [stats, keep, grads, units] if on else [])
        warned = said(partial(learn.fit, 2, LR))
        runs[on] = dict(losses=torch.stack(list(learn.recorder.losses)),
                        values=[v for row in learn.recorder.values for v in row],
                        weights=[p.detach().clone() for p in learn.model.parameters()], random=torch.rand(3))
    same = all(str(runs[False][k]) == str(runs[True][k]) if k == 'values' else
               all(map(torch.equal, runs[False][k], runs[True][k])) for k in runs[True])
    return dict(record=stats.record, local=stats.accumulator.record, kept=keep.kept, grads=keep.grads, same=same,
                warned=warned, grad=grads.record, units=units.record,
                relu=units.accumulator.record,
                by_rank=dict(stats.by_rank))

def each(rank, size):
    "One rank's digits are far too bright"
    dls = loaders(batches(rank, size, 4))
    class Bright(Callback):
        def before_batch(self): self.learn.xb = (self.xb[0]*(4 if rank == 1 else 1),)
    stats = ActStats(ranks='each')
    learner(ddp(model()), dls, [stats, Bright()]).fit(1, LR)
    return dict(record=stats.record, by_rank=dict(stats.by_rank), distance=stats.by_rank.distance(),
                df=stats.by_rank.to_df())

def local(rank, size):
    stats = ActStats(ranks='local')
    learner(ddp(model()), loaders(batches(rank, size, 3)), [stats, Late(0, .3)]).fit(1, LR)
    return dict(record=stats.record, local=stats.accumulator.record)

def two_fits(rank, size):
    "SyncBatchNorm, accumulation, bf16, a merge at every epoch, and a second fit"
    stats, seen = ActStats(capacity=6), []
    class Merge(Callback):
        def after_epoch(self):
            seen.append(stats.record.ranks)
            stats.merge_ranks()
            seen.append((stats.record.ranks, int(stats.record.count.sum())))
    saved = Path(sys.argv[1])/'saved'/f'{rank}.npz'
    cbs = [stats, GradientAccumulation(2*BS), MixedPrecision(amp_mode=AMPMode.BF16), Merge(), SaveRecord(saved)]
    on_the_cpu()
    learn = learner(ddp(nn.SyncBatchNorm.convert_sync_batchnorm(model())), loaders(batches(rank, size, 8)), cbs)
    learn.fit(2, LR)
    learn.fit(1, LR)
    learn.validate()
    return dict(record=stats.record, local=stats.accumulator.record, seen=seen,
                saved=[f.name for f in saved.parent.iterdir()])

class PassedOn(Sink):
    got = None
    def open(self, learn): self.got = {}
    def scalars(self, step, values): self.got.update({(name, step): v for name, v in values.items()})

def shown(rank, size):
    "A live picture after every batch, a logger, files: whoever asks, the ranks meet once an epoch"
    drawn, met, figure, meet = [], [], live.live_figure, distributed.meet
    live.live_figure = lambda rec, most: drawn.append((rec.ranks, int(rec.count.sum()))) or figure(rec, most)
    distributed.meet = lambda *args: met.append(1) or meet(*args)
    folder = Path(sys.argv[1])/'shown'
    show = LiveStats(folder/f'{rank}.png', every=1e-6, notebook=False)
    show.budget = 1e9  # nothing keeps it from drawing
    stats, log = ActStats(), StatsLogger(PassedOn())
    try:
        warned = said(lambda: learner(ddp(model()), loaders(batches(rank, size, 4)),
                                      [stats, log, show, SaveRecord(folder/'run.npz')]).fit(3, LR))
    finally: live.live_figure, distributed.meet = figure, meet
    dist.barrier()
    return dict(record=stats.record, drawn=drawn, got=log.sink.got, meetings=len(met),
                files=sorted(f.name for f in folder.iterdir()), warned=warned)

def uneven(rank, size):
    "The first rank has 5 batches an epoch, the others 8; gradients are averaged as long as all have batches"
    stats, keep = ActStats(phase='both', bins=40, range=(-4, 4)), KeepOfRank(LAYERS)
    class Share(Callback):
        def after_backward(self):
            if self.iter >= 5: return
            for p in self.model.parameters():
                dist.all_reduce(p.grad)
                p.grad /= size
    dls = loaders(batches(rank, size, 5 if rank == 0 else 8), range(4000, 4000 + (2 + rank)*BS))
    learn = learner(model(), dls, [stats, keep, Share()])
    # fastai gathers the losses of every batch
    gather, torch_core.maybe_gather = torch_core.maybe_gather, lambda x, axis=0: x
    try: warned = said(lambda: learn.fit(3, LR))
    finally: torch_core.maybe_gather = gather
    return dict(record=stats.record, local=stats.accumulator.record, kept=keep.kept, warned=warned)

class Branches(nn.Module):
    "A layer that runs on the first rank only, and one that runs nowhere"
    def __init__(self):
        super().__init__()
        self.stem, self.some, self.never = nn.Linear(784, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)
    def forward(self, x):
        x = self.stem(x.flatten(1))
        return self.head(self.some(x) if dist.get_rank() == 0 else x)

def never(rank, size):
    set_seed(SEED)
    stats = ActStats()
    warned = said(lambda: learner(ddp(Branches(), find_unused_parameters=True), loaders(batches(rank, size, 3)),
                                  stats).fit(1, LR))
    return dict(record=stats.record, local=stats.accumulator.record, warned=warned)

def late(rank, size, seconds=10., limit=60., cbs=()):
    stats = ActStats()
    stats.ranks.limit = limit
    learn, start = learner(ddp(model()), loaders(batches(rank, size, 2)),
                           [stats, Late(1, seconds), *cbs]), time.monotonic()
    warned = said(lambda: learn.fit(1, LR))
    return dict(record=stats.record, local=stats.accumulator.record, warned=warned, seconds=time.monotonic() - start)

def too_late(rank, size):
    "Later than the others wait; the next fit finds them together again"
    folder = Path(sys.argv[1])/'too_late'
    class Write(SaveRecord):
        def after_epoch(self): pass  # only when the fit is over, after the meeting that one missed
    res = late(rank, size, 2., .5, [Write(folder/'run.npz')])
    time.sleep(0 if rank == 1 else 2)
    return dict(res, files=sorted(f.name for f in folder.iterdir()), again=late(rank, size, 0.)['record'].ranks)

def on_the_cpu():
    "Of SyncBatchNorm what does not need a GPU: all but the exchange of statistics"
    nn.SyncBatchNorm.forward = nn.BatchNorm2d.forward
    DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None

def trainer(rank, size):
    "fastai's own DistributedTrainer, with SyncBatchNorm, and accelerate; what needs a GPU in them is put aside"
    from fastai import distributed  # adds `distrib_ctx` to Learner
    distributed.DistributedDL._broadcast = lambda self, t, rank: t  # calls `.cuda()`; these loaders are not shuffled
    on_the_cpu()
    stats = ActStats(['*.1', '*.0'])
    learn = learner(model(), loaders(range(8*BS)), stats)
    with learn.distrib_ctx(cpu=True): learn.fit(2, LR)
    return dict(record=stats.record, local=stats.accumulator.record,
                hooks=sum(len(m._forward_hooks) for m in learn.model.modules()))

def sgd(params, **kwargs): return OptimWrapper(params, torch.optim.SGD, **kwargs)

class KeepParameters(Callback):
    "Whole parameters before each step, their gradients, and what the step changed: gathered by torch, in one place"
    order = 56
    def __init__(self, bins): self.bins, self.kept = bins, []
    def whole(self, x): return x.full_tensor() if hasattr(x, 'full_tensor') else x.clone()
    def before_step(self):
        with torch.no_grad():
            self.old = {n: self.whole(p) for n, p in self.model.named_parameters()}
            self.kept.append(dict(weights={n: Summary.of(x, self.bins, 'eager') for n, x in self.old.items()},
                                  grads={n: Summary.of(self.whole(p.grad), self.bins, 'eager')
                                         for n, p in self.model.named_parameters()}))
    def after_step(self):
        with torch.no_grad():
            self.kept[-1]['updates'] = {n: Summary.of(self.whole(p) - self.old[n], self.bins, 'eager')
                                        for n, p in self.model.named_parameters()}

def fsdp(rank, size):
    "fully_shard, with shards that are uneven or empty"
    from torch.distributed.fsdp import fully_shard
    m = model()
    mesh = dist.init_device_mesh('cpu', (size,))
    for block in m: fully_shard(block, mesh=mesh) if list(block.parameters()) else None
    fully_shard(m, mesh=mesh)
    stats, grads, weights, keep = ActStats(), GradStats(), WeightStats(), KeepOfRank(LAYERS)
    parameters = KeepParameters(weights.accumulator.bins)
    warned = said(lambda: learner(m, loaders(batches(rank, size, 3)), [stats, grads, weights, keep, parameters],
                                  opt_func=sgd).fit(1, LR))
    return dict(record=stats.record, local=stats.accumulator.record, grad=grads.record, grads=keep.grads, warned=warned,
                parameters=parameters.kept, weights=weights.record, weight_grads=weights.grads, updates=weights.updates)

class Inside(nn.Module):
    "What is averaged stands inside of a module of the user's own"
    def __init__(self, body):
        super().__init__()
        self.body, self.temperature = body, 2.
    def forward(self, x): return self.body(x)/self.temperature

def inside(rank, size):
    m, names = Inside(ddp(model())), [f'body.module.{n}' for n in LAYERS]
    grads, keep = GradStats(), KeepOfRank(names)
    learner(m, loaders(batches(rank, size, 3)), [grads, keep]).fit(1, LR)
    return dict(grad=grads.record,
                grads=[{n.removeprefix('body.module.'): g for n, g in o.items()} for o in keep.grads])

def caught(rank, size):
    "One batch of the last rank is far too large; first the fit goes on, then it ends; the weights stay as they are"
    res = []
    class Spoil(Callback):
        order = -30
        def before_batch(self):
            if self.training and rank == size - 1 and self.epoch*8 + self.iter == 9:
                self.learn.xb = (self.xb[0]*1e4,)
    for stop in False, True:
        folder = Path(sys.argv[1])/f'caught {stop}'
        catch = CatchBatch(stop=stop)
        catch.votes = 4
        learn = learner(ddp(model()), loaders(batches(rank, size, 8)), [ActStats(), catch, Spoil()], path=folder)
        warned = said(partial(learn.fit, 3, 0.))
        dist.barrier()
        res.append(dict(warned=warned, steps=len(learn.recorder.losses), reason=catch.reason,
                        files=sorted(f.name for f in folder.iterdir())))
    return dict(fits=res)

def shares(rank, size):
    "What lies there in the middle of an epoch, and after the fit"
    folder, seen = Path(sys.argv[1])/'shares', {}
    stats, save = ActStats(), SaveRecord(folder/'run.npz', seconds=1e-6)
    def look():
        save._finish()
        dist.barrier()
        seen['amid'] = sorted(f.name for f in folder.iterdir())
        every = {r: Record.load(folder/f'run.rank{r}.npz') for r in range(size)}
        seen.update(shares=every, whole=merge_records(every))
        seen['recorded'] = stats.accumulator.record
        dist.barrier()
    learner(ddp(model()), loaders(batches(rank, size, 6)), [stats, save, At(9, look)]).fit(2, LR)
    dist.barrier()
    return dict(seen, record=stats.record, after=sorted(f.name for f in folder.iterdir()))

class Fit:
    "One fit of a scenario, with rules of its own: what came of it"
    def __init__(self, cbs, n=4, epochs=2, model=None, limit=2.):
        for cb in cbs:
            if hasattr(cb, 'ranks'): cb.ranks.limit = limit
        self.learn = learner(model or ddp(worker_model()), loaders(batches(dist.get_rank(), dist.get_world_size(), n)),
                             cbs)
        self.again(epochs)
    def again(self, epochs=2):
        dist.barrier()
        start = time.monotonic()
        self.warned = said(lambda: self.learn.fit(epochs, LR))
        self.seconds, self.steps = time.monotonic() - start, len(self.learn.recorder.losses)
        return dict(warned=self.warned, seconds=self.seconds, steps=self.steps)

def worker_model(): set_seed(SEED); return nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))

def with_rule(check):
    "A scenario in which `picky` is a rule"
    def scenario(rank, size):
        RULES['picky'] = Rule(lambda rec: check(rank, size, rec), ('activations',))
        try: return globals()['_' + check.__name__](rank, size)
        finally: del RULES['picky']
    return scenario

def found(rec, since):
    return [Finding(rec.layers[0], 'picky', since, 'seen', 'none')] if rec.steps[-1, 1] >= since else []

def a_rule_raises(rank, size, rec):
    if rank == size - 1 and rec.steps[-1, 1] >= 1: raise KeyError('oops')
    return found(rec, 5) if rank == 0 else []

def _a_rule_raises(rank, size):
    "on the last rank; later the first one finds something"
    stop = StopOnTrouble('picky', every=2)
    fit = Fit([ActStats(), stop])
    return dict(warned=fit.warned, seconds=fit.seconds, steps=fit.steps, reason=bool(stop.reason))

def a_rule_hangs(rank, size, rec):
    "once, for longer than the others wait"
    if rank == size - 1 and rec.steps[-1, 1] == 1: time.sleep(1.5)
    return found(rec, 5)

def _a_rule_hangs(rank, size):
    stats = ActStats()
    fit = Fit([stats, StopOnTrouble('picky', every=2)], limit=.5)
    first = dict(warned=fit.warned, seconds=fit.seconds, steps=fit.steps, ranks=stats.record.ranks)
    return dict(first, again=fit.again())

def stop_on_one(rank, size, rec): return found(rec, 1)

def _stop_on_one(rank, size):
    "Only the first rank has StopOnTrouble, which finds something at once"
    stats = ActStats()
    fit = Fit([stats, *[StopOnTrouble('picky', every=2)]*(rank == 0)])
    return dict(warned=fit.warned, seconds=fit.seconds, steps=fit.steps, ranks=stats.record.ranks)

rule_raises, rule_hangs, lone_stop = map(with_rule, (a_rule_raises, a_rule_hangs, stop_on_one))

def lone_readers(rank, size):
    "Only the first rank writes, draws and logs; a second fit follows"
    folder = Path(sys.argv[1])/'lone_readers'
    stats, grads, units = ActStats(), GradStats(), DeadUnits()
    readers = [StatsLogger(PassedOn()), LiveStats(folder/'live.png', notebook=False),
               SaveRecord(folder/'run.npz')] if rank == 0 else []
    fit = Fit([stats, grads, units, *readers], epochs=3)
    first = dict(warned=fit.warned, seconds=fit.seconds, ranks=[o.record.ranks for o in (stats, grads)],
                 count=int(stats.record.count.sum()))
    again = fit.again()
    return dict(first=first, again=again, record=stats.record, local=stats.accumulator.record,
                ranks=[o.record.ranks for o in (stats, grads)])

def lone_stats(rank, size):
    "The last rank has one callback only, then none, then all of them; then it is late as a fit begins"
    last, folder, res = rank == size - 1, Path(sys.argv[1])/'lone_stats', []
    def fit(cbs, limit=2.):
        save = SaveRecord(folder/f'{len(res)}.npz')
        run = Fit([*cbs, *[save]*bool(cbs)], limit=limit)
        res.append(dict(warned=run.warned, seconds=run.seconds, steps=run.steps,
                        ranks={cb.name: cb.record.ranks for cb in cbs}))
    fit([ActStats()] if last else [ActStats(), GradStats()])
    fit([] if last else [ActStats(), GradStats()])
    fit([ActStats(), GradStats()])
    class LateToBegin(Callback):
        order = -30
        def before_fit(self): time.sleep(1.5 if last else 0)
    both = [ActStats(), LateToBegin()]
    run = Fit(both, limit=.5)
    res.append(dict(warned=run.warned, seconds=run.seconds, steps=run.steps, ranks={'act_stats': both[0].record.ranks}))
    fit([ActStats()])
    return dict(fits=res)

def killed(rank, size, victim=None):
    "The last rank is killed in the middle of the second epoch"
    # torchrun ends the others when one is gone: here they shall have their say
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    victim, stats = size - 1 if victim is None else victim, ActStats()
    # longer than those wait who are in a collective with living ranks when another one has left it
    stats.ranks.limit = 12.
    cbs = [stats, At(6, lambda: os.kill(os.getpid(), signal.SIGKILL) if rank == victim else None)]
    learn, start = learner(ddp(model()), loaders(batches(rank, size, 4)), cbs), time.monotonic()
    try: learn.fit(3, LR)
    except RuntimeError as e: error = str(e)
    alone = stats.record
    warned = said(stats.merge_ranks)
    return dict(error=error, alone=alone, record=stats.record, warned=warned, seconds=time.monotonic() - start)

def killed_first(rank, size): return killed(rank, size, 0)

def gone(rank, size):
    "The last rank is killed between its last step and the meeting"
    class Die(Callback):
        order = -21
        def after_fit(self):
            if rank == size - 1: os.kill(os.getpid(), signal.SIGKILL)
    stats = ActStats()
    stats.ranks.limit = 1.
    warned = said(lambda: learner(ddp(model()), loaders(batches(rank, size, 4)), [stats, Die()]).fit(1, LR))
    return dict(record=stats.record, local=stats.accumulator.record, warned=warned)

def main(out, *scenarios):
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    dist.init_process_group('gloo', timeout=timedelta(seconds=8 if 'killed' in scenarios else 40))
    rank, size = dist.get_rank(), dist.get_world_size()
    for name in scenarios:
        result = globals()[name](rank, size)
        with open(Path(out)/f'{name}.{rank}', 'wb') as f:
            pickle.dump(dict(result, size=size, host=os.environ.get('HOST', '')), f)
    os._exit(0) if {'killed', 'killed_first', 'gone'} & set(scenarios) else dist.destroy_process_group()

if __name__ == '__main__': main(*sys.argv[1:])
