"""Layers that return anything at all, watched while a model trains: `python tests/fuzz_outputs.py SECONDS [SEED]`

Prints one line of what it did and `ok`; an exception that reaches the training loop, or more than a warning a layer,
ends it with the seed that did it. What kills the process leaves that seed on the last line."""
import collections
import dataclasses
import random
import sys
import time
import warnings

import torch
from torch import nn

from fastai_actstats.callbacks.channels import ChannelTap
from fastai_actstats.callbacks.gradients import GradTap
from fastai_actstats.callbacks.hooks import Tap
from fastai_actstats.core.accumulator import Accumulator
from fastai_actstats.core.channel_accumulator import ChannelAccumulator
from fastai_actstats.core.samples import Reservoir, SampleTap
from fastai_actstats.kernels.bins import Bins


class Plain(torch.Tensor): pass

class Spoken(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.Tensor.is_floating_point and random.random() < .2: raise ValueError('asked for its type')
        return super().__torch_function__(func, types, args, kwargs or {})

class Wrapper(torch.Tensor):
    "Has no memory of its own"
    @staticmethod
    def __new__(cls, inner):
        res = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device,
                                                  requires_grad=False)
        res.inner = inner
        return res
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default: return cls(args[0].inner)
        raise NotImplementedError(f'Wrapper does not know {func}')

class Raising:
    def __init__(self, error): object.__getattribute__(self, '__dict__')['error'] = error
    def __getattribute__(self, name): raise object.__getattribute__(self, '__dict__')['error']

class RaisingDict(dict):
    def values(self): raise RuntimeError('no values')
    def __len__(self): raise RuntimeError('no length')

class RaisingMap(collections.abc.Mapping):
    def __getitem__(self, k): raise KeyError(k)
    def __iter__(self): raise OSError('no keys')
    def __len__(self): raise MemoryError
    def values(self): raise ZeroDivisionError

class RaisingList(list):
    def __iter__(self): raise RuntimeError('no parts')
    def __len__(self): raise RuntimeError('no length')

class Endless(list):
    def __iter__(self):
        while True: yield 0

class Deep:
    @property
    def __dict__(self): return {'next': Deep()}

class Speechless(Exception):
    def __str__(self): raise RuntimeError('says nothing')

class Liar:
    @property
    def __class__(self): raise ValueError('no class')

@dataclasses.dataclass
class Data:
    a: object
    b: object

@dataclasses.dataclass
class Gap:
    a: object
    def __post_init__(self): del self.a

class Holder:
    def __init__(self, x): self.x = x

class Slots:
    __slots__ = ('x',)
    def __init__(self, x): self.x = x

Pair = collections.namedtuple('Pair', 'a b')

def nested_tensor(layout):
    return torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=layout)

TENSORS = {
    'plain': lambda r: torch.randn([r.randint(0, 5) for _ in range(r.randint(0, 4))]),
    'empty': lambda r: torch.randn(0, r.randint(0, 3)), 'scalar': lambda r: torch.randn(()),
    'complex': lambda r: torch.randn(3, 2, dtype=torch.cfloat),
    'real of complex': lambda r: torch.randn(3, 2, dtype=torch.cfloat).real, 'half': lambda r: torch.randn(4, 3).half(),
    'bfloat16': lambda r: torch.randn(4, 3).bfloat16(), 'double': lambda r: torch.randn(4, 3).double(),
    'float8': lambda r: torch.randn(4, 3).to(r.choice([torch.float8_e4m3fn, torch.float8_e5m2])),
    'bool': lambda r: torch.randn(4, 3) > 0, 'int': lambda r: torch.randint(9, (4, 3)),
    'uint8': lambda r: torch.zeros(4, dtype=torch.uint8),
    'quantised': lambda r: torch.quantize_per_tensor(torch.randn(4, 3), .1, 0, torch.qint8),
    'coo': lambda r: torch.randn(4, 3).relu().to_sparse(), 'csr': lambda r: torch.randn(4, 3).relu().to_sparse_csr(),
    'nested': lambda r: nested_tensor(torch.strided), 'jagged': lambda r: nested_tensor(torch.jagged),
    'meta': lambda r: torch.randn(4, 3, device='meta'), 'zero': lambda r: torch._efficientzerotensor(4, 3),
    'negative view': lambda r: torch.randn(4, 3, dtype=torch.cfloat).conj().imag,
    'gradients': lambda r: torch.randn(4, 3, requires_grad=True),
    'graph': lambda r: torch.randn(4, 3, requires_grad=True)*2,
    'expanded': lambda r: torch.randn(4, 1, requires_grad=r.random() < .5).expand(4, 9),
    'flipped': lambda r: torch.randn(4, 3).flip(0), 'steps': lambda r: torch.randn(8, 6)[::2, 1::3],
    'transposed': lambda r: torch.randn(4, 3).t(), 'overlapping': lambda r: torch.randn(9).as_strided((4, 3), (1, 2)),
    'nan': lambda r: torch.full((4, 3), float(r.choice(['nan', 'inf', '-inf']))),
    'subclass': lambda r: torch.randn(4, 3).as_subclass(Plain),
    'torch function': lambda r: torch.randn(4, 3).as_subclass(Spoken),
    'wrapper': lambda r: Wrapper(torch.randn(4, 3)), 'parameter': lambda r: nn.Parameter(torch.randn(4, 3)),
    'lazy': lambda r: nn.parameter.UninitializedParameter(), 'freed': lambda r: freed(), 'fake': lambda r: fake(),
}

def freed():
    x = torch.randn(4, 3)
    x.untyped_storage().resize_(0)
    return x

def fake():
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(): return torch.randn(4, 3)

def cyclic(r, inner):
    res = r.choice([lambda: [inner], lambda: {'a': inner}, lambda: Holder(inner)])()
    if isinstance(res, list): res.insert(0, res)
    elif isinstance(res, dict): res['b'] = (res, {'c': res})
    else: res.y = [res]
    return res

def deep(r, inner):
    for _ in range(r.choice([10, 900, 20_000])):
        inner = r.choice([lambda x: [x], lambda x: (x,), lambda x: {'a': x}])(inner)
    return inner

ERRORS = (RuntimeError('x'), RecursionError('x'), MemoryError(), Speechless(), AttributeError('x'), StopIteration(),
          torch.OutOfMemoryError('full'))
OTHERS = {'none': lambda r: None, 'text': lambda r: 'x'*r.randint(0, 9), 'number': lambda r: 1.5,
          'module': lambda r: nn.Linear(2, 2), 'torch': lambda r: torch,
          'class': lambda r: nn.Linear, 'function': lambda r: deep, 'raising': lambda r: Raising(r.choice(ERRORS)),
          'raising dict': lambda r: RaisingDict(a=1), 'raising map': lambda r: RaisingMap(),
          'raising list': lambda r: RaisingList([1]), 'endless': lambda r: Endless(), 'ever deeper': lambda r: Deep(),
          'liar': lambda r: Liar(), 'gap': lambda r: Gap(1), 'generator': lambda r: (x for x in [torch.randn(2)]),
          'slots': lambda r: Slots(torch.randn(2))}
CONTAINERS = {'list': lambda r, x: [None, x], 'tuple': lambda r, x: (x, x), 'dict': lambda r, x: {'a': 1, 'b': x},
              'named': lambda r, x: Pair(1, x), 'data': lambda r, x: Data(None, x), 'holder': lambda r, x: Holder(x),
              'ordered': lambda r, x: collections.OrderedDict(a=x), 'cyclic': cyclic, 'deep': deep,
              'chain': lambda r, x: collections.ChainMap({'a': x}), 'deque': lambda r, x: collections.deque([x])}

def output(r):
    "Something that a layer may return, and what it is"
    made = {**TENSORS, **(OTHERS if r.random() < .5 else {})}
    kind = r.choice(list(made))
    x, kinds = made[kind](r), [kind]
    for _ in range(r.choice([0, 0, 1, 2, 3])):
        kinds.insert(0, r.choice(list(CONTAINERS)))
        x = CONTAINERS[kinds[0]](r, x)
    return x, ' of '.join(kinds)

class Any(nn.Module):
    def forward(self, x): return self.gives

HOOKS = {'Tap': (Accumulator, lambda rec, kernel: Tap(rec, 'a', kernel=kernel)),
         'GradTap': (Accumulator, lambda rec, kernel: GradTap(rec, 'a', kernel=kernel)),
         'ChannelTap': (ChannelAccumulator, lambda rec, kernel: ChannelTap(rec, 'a', 'relu', lambda shape: -1))}

def watched(hook, kernel):
    "A function that takes a batch through a layer with this hook: `batch(what the layer gives)`"
    layer, reservoir = Any(), Reservoir(5)
    if hook == 'SampleTap': recorder, tap = None, SampleTap(lambda: reservoir, 'a', 'mean', None, None)
    else:
        make, tap_of = HOOKS[hook]
        recorder = make(Bins(8)) if make is Accumulator else make()
        recorder.add_layers(['a'], torch.device('cpu'))
        tap = tap_of(recorder, kernel)
    layer.register_forward_hook(tap)
    def batch(x):
        layer.__dict__['gives'] = x  # nn.Module would look at it
        reservoir.begin(4)
        if recorder: recorder.begin_batch(True)
        assert layer(torch.zeros(1)) is x
        if not recorder: return
        recorder.batch.step_done()
        recorder.end_batch((0, 0))
    return batch

def one(seed):
    "Two batches of one output, past a hook of each kind; what it was"
    r = random.Random(seed)
    kernel = r.choice(['auto', 'eager'])
    for hook in (*HOOKS, 'SampleTap'):
        r.seed(seed)
        random.seed(seed)
        torch.manual_seed(seed)
        batch = watched(hook, kernel)
        x, kind = output(r)
        print(seed, hook, kind, end='\r', file=sys.stderr, flush=True)  # the last one, should the process die
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            for _ in range(2): batch(x)
        told = [str(w.message) for w in told if 'left out' in str(w.message) or 'kernel' in str(w.message)]
        if len(told) > 1: raise AssertionError(f'{len(told)} warnings of one layer past {hook}: {told}')
    return kind

FOUND = 19,  # seeds that found something: freed memory, which torch itself reads when units are counted

def main(seconds, seed):
    warnings.simplefilter('ignore')
    for found in FOUND: one(found)
    end, kinds, first = time.monotonic() + seconds, collections.Counter(), seed
    while time.monotonic() < end:
        try: kinds[one(seed)] += 1
        except Exception as e: raise AssertionError(f'seed {seed}') from e
        seed += 1
    print(f'{seed - first} outputs of {len(kinds)} kinds, seeds {first} to {seed - 1}: ok')

if __name__ == '__main__': main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
