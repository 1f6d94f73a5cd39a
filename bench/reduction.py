"""The reduction alone, by size and kind of tensor: `python bench/reduction.py`

Ours by kernel, against what fastai's `ActivationStats(with_hist=True)` computes, against one `torch.sum`, and on a
GPU against a device-to-device copy. Medians of rounds in alternation, ratios round by round."""
import pandas as pd
import torch
from measure import against, alternate, numbers, settings, spread, write

from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.dispatch import fold
from fastai_actstats.kernels.eager import empty

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
KINDS = {'normal': lambda n: torch.randn(n, device=DEVICE), 'relu': lambda n: torch.randn(n, device=DEVICE).relu_(),
         'constant': lambda n: torch.full((n,), .3, device=DEVICE),
         'bfloat16': lambda n: torch.randn(n, device=DEVICE).bfloat16()}

def fastai(o):
    "What `ActivationStats(with_hist=True).hook` computes"
    o = o.float()
    return o.mean().item(), o.std().item(), (o <= 0.05).long().sum().item()/o.numel(), o.histc(40, 0, 10)

def ways_to_reduce(x, bins, few):
    "Name → what reduces `x` a few times"
    row = empty(bins=bins, device=DEVICE)
    def times(f): return lambda: [f() for _ in range(few)]
    ways = {'ours': times(lambda: fold(x, row, bins)), 'sum': times(lambda: x.sum()),
            'fastai': times(lambda: fastai(x))}
    if x.numel() <= 10**7: ways['ours, eager'] = times(lambda: fold(x, row, bins, 'eager'))
    if DEVICE == 'cuda':
        y = torch.empty_like(x)
        ways['copy'] = times(lambda: y.copy_(x))
    return ways

def main():
    bins, rounds, rows = Bins(), settings().getint('rounds'), []
    sync = torch.cuda.synchronize if DEVICE == 'cuda' else None
    for size in numbers('reduction_sizes'):
        for kind, make in KINDS.items():
            few = max(1, 200_000//size)  # calls a round, so that small ones can be measured
            ways = ways_to_reduce(make(size), bins, few)
            got = alternate(ways, rounds if size < 10**8 else 5, sync=sync)
            rows.append(dict(size=size, kind=kind,
                             **{f'{n}, ns a value': spread(t)['median']/few/size*1e9 for n, t in got.items()},
                             **against(got, 'fastai', 'ours', 'fastai / ours'),
                             **against(got, 'ours', 'sum', 'ours / sum')))
            del ways
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write('reduction', rows)

if __name__ == '__main__': main()
