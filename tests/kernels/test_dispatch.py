"""The gate before the kernels: any tensor is read rightly or refused, and a kernel that cannot work loses nothing."""
import os
import subprocess
import sys
import textwrap
import warnings
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastai_actstats.all import ActStats, WeightStats
from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels import dispatch, eager
from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.dispatch import fold, fold_all, kernel_for, load_kernel, readable, try_out
from fastai_actstats.kernels.eager import MEAN, MIN, MOMENTS, empty

FLOATS = torch.float16, torch.bfloat16, torch.float32, torch.float64

# Any view of any memory

@st.composite
def views(draw, x):
    "A view of a view of ... `x`, of any sort that torch offers"
    for _ in range(draw(st.integers(0, 4))):
        dims = x.dim()
        d, e = draw(st.integers(0, max(dims - 1, 0))), draw(st.integers(0, max(dims - 1, 0)))
        kind = draw(st.sampled_from(['step', 'flip', 'select', 'transpose', 'expand', 'windows', 'diagonal',
                                     'as_strided']))
        if kind == 'step' and dims:
            x = x[(slice(None),)*d + (slice(draw(st.integers(0, 3)), None, draw(st.integers(1, 3))),)]
        elif kind == 'flip' and dims: x = x.flip(d)
        elif kind == 'select' and dims and x.shape[d]: x = x.select(d, draw(st.integers(-1, 0)))
        elif kind == 'transpose' and dims: x = x.transpose(d, e)
        elif kind == 'expand' and x.numel() < 500:
            x = x.unsqueeze(d).expand(*x.shape[:d], draw(st.integers(1, 3)), *x.shape[d:])
        elif kind == 'windows' and dims and x.shape[d] > 1 and x.numel() < 500: x = x.unfold(d, 2, 1)
        elif kind == 'diagonal' and d != e: x = x.diagonal(0, d, e)
        elif kind == 'as_strided' and x.is_contiguous() and x.numel() > 8:  # overlapping
            x = x.as_strided((2, 3, 2), (draw(st.integers(0, 2)), draw(st.integers(0, 1)), 1),
                             x.storage_offset() + draw(st.integers(0, 1)))
    return x

@st.composite
def tensors(draw):
    dtype, shape = draw(st.sampled_from(FLOATS)), draw(st.lists(st.integers(0, 7), max_size=4))
    seed, offset = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 5))
    memory = np.random.default_rng(seed).normal(1, 5, int(np.prod(shape)) + offset)
    part = draw(st.sampled_from(['all', 'real', 'imag', 'conjugate']))
    if part == 'all' or dtype not in (torch.float32, torch.float64):
        x = torch.from_numpy(memory).to(dtype)[offset:].view(shape)
    else:
        z = torch.from_numpy(memory + 1j*memory[::-1]).to(torch.complex64 if dtype == torch.float32
                                                          else torch.complex128)[offset:].view(shape)
        x = dict(real=z.real, imag=z.imag, conjugate=z.conj().imag)[part]
    return draw(views(x))

def check_summary(x, kernel):
    values = np.array(x.to(torch.float64).tolist()).ravel()
    with warnings.catch_warnings():
        if kernel == 'cuda': warnings.simplefilter('ignore', RuntimeWarning)  # the interpreter computes with numpy
        got = Summary.of(x.cuda() if kernel == 'cuda' and torch.cuda.is_available() else x, kernel=kernel)
    assert int(got.count) == values.size == int(got.counts.sum()) and not got.nonfinite
    if not values.size: return
    assert float(got.min) == values.min() and float(got.max) == values.max()
    np.testing.assert_allclose(float(got.mean), values.mean(), rtol=1e-5, atol=1e-5*np.abs(values).max())
    if values.size > 1:
        np.testing.assert_allclose(float(got.std), values.std(ddof=1), rtol=1e-5, atol=1e-6*np.abs(values).max())

@settings(max_examples=int(os.environ.get('ACTSTATS_VIEWS', 250)), deadline=None)
@given(tensors(), st.sampled_from(['eager', 'cpu', 'auto']))
def test_any_view_is_read_as_numpy_reads_it(x, kernel): check_summary(x, kernel)

@settings(max_examples=15, deadline=None)
@given(tensors())
def test_any_view_is_read_by_the_kernel_for_cuda(x): check_summary(x, 'cuda')

@pytest.mark.parametrize('kernel', ['eager', 'cpu', 'auto'])
@pytest.mark.parametrize('dtype', FLOATS)
def test_views_that_are_evenly_spaced(dtype, kernel):
    x = torch.linspace(-3, 4, 6*8*10*12).view(6, 8, 10, 12).to(dtype)
    flat = x.reshape(-1)
    for view in (x[..., 0], x[..., -1], flat[::2], flat[1::3], flat.flip(0), x[0, 0, :10, :10].diagonal(),
                 flat[5:].as_strided((7, 9), (1, 1)),
                 x[:, :1].expand(6, 8, 10, 12), x[2:, 3:, ::2], x.permute(2, 0, 3, 1)):
        check_summary(view, kernel)

@pytest.mark.parametrize('kernel', ['eager', 'cpu', 'auto'])
def test_folding_many_reads_what_folding_one_reads(kernel):
    x, bins = torch.randn(8, 6), Bins()
    tensors = [x[:, 0], x[:, 1], x[:, 2].contiguous(), x[:1].expand(4, 6), x.t(), torch.complex(x, x).conj().imag,
               x.half(), x.to(torch.float8_e5m2),
               x[0], torch._efficientzerotensor(8), torch.ones(8), x[:0]]
    rows = empty(len(tensors), bins=bins)
    for _ in range(2): fold_all(tensors, list(range(len(tensors))), rows, bins, kernel)
    for x, row in zip(tensors, rows):
        want = Summary.of(torch.tensor(x.double().tolist()*2, dtype=torch.float32), bins, 'eager').rows
        assert torch.equal(row[:MEAN], want[:MEAN]) and torch.equal(row[MIN:], want[MIN:])
        assert torch.allclose(row[MOMENTS], want[MOMENTS], rtol=1e-6, atol=1e-6)

@pytest.mark.parametrize('kernel', ['eager', 'cpu', 'auto'])
def test_what_cannot_be_read_is_refused_by_name(kernel):
    x, row = torch.randn(4, 4), empty(bins=Bins())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # torch calls it beta
        rows_only, nested = x.to_sparse_csr(), torch.nested.nested_tensor([x[0], x[1, :2]])
    freed = torch.randn(4, 4)
    part, turned = freed[1:], freed[1:].t()
    freed.untyped_storage().resize_(0)
    for bad, why in ((x.to_sparse(), 'a Tensor .torch.sparse_coo'), (rows_only, 'a Tensor .torch.sparse_csr'),
                     (x.long(), 'torch.int64'), (torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged),
                                                 'a nested NestedTensor .torch.jagged'),
                     (nested, 'a nested Tensor'),
                     (torch.complex(x, x), 'torch.complex64'), (freed, 'its memory was freed'),
                     (part, 'its memory was freed'), (turned, 'its memory was freed'),
                     (torch._to_functional_tensor(x), 'a Tensor .* cannot be read'),
                     (torch.zeros(8, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
                      'float4_e2m1fn_x2.* cannot be read')):
        with pytest.raises(TypeError, match=why): fold(bad, row, Bins(), kernel)
        with pytest.raises(TypeError, match=why): fold_all([bad], [0], row[None], Bins(), kernel)
        assert torch.equal(row, empty(bins=Bins()))

@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz])
def test_narrow_floats_are_widened(dtype):
    for kernel in ('eager', 'cpu', 'auto'): check_summary(torch.randn(9, 7).to(dtype)[::2], kernel)

def test_a_transformed_tensor_changes_no_row():
    "under torch.func a tensor has no memory that can be read"
    row = empty(bins=Bins())
    def f(x):
        with pytest.raises((TypeError, RuntimeError)): fold(x, row, Bins())
        return x.sum()
    torch.func.grad(f)(torch.randn(5))
    torch.func.vmap(f)(torch.randn(5, 3))
    assert torch.equal(row, empty(bins=Bins()))

# What would kill the process: each in one of its own

HEAD = """
import warnings
import torch
from torch import nn
from torch.utils._pytree import tree_map
from fastai.basics import CrossEntropyLossFlat, DataLoaders, Learner
from fastai_actstats.all import ActStats, WeightStats, GradStats

class Wrapped(torch.Tensor):
    "Its memory is another tensor's"
    @staticmethod
    def __new__(cls, inner): return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
    def __init__(self, inner): self.inner = inner
    @classmethod
    def __torch_dispatch__(cls, f, types, args=(), kwargs=None):
        inner = lambda x: x.inner if isinstance(x, Wrapped) else x
        out = f(*tree_map(inner, args), **tree_map(inner, kwargs or {}))
        return tree_map(lambda x: Wrapped(x) if isinstance(x, torch.Tensor) else x, out)

class Gives(nn.Module):
    def __init__(self, f): super().__init__(); self.f = f
    def forward(self, x): return self.f(x)

class Aside(nn.Module):
    "Its child is called, and what that gives is not used"
    def __init__(self, f): super().__init__(); self.child = Gives(f)
    def forward(self, x): self.child(x); return x

def fit(model, *cbs):
    items = [(torch.randn(5, generator=g), i % 2) for g in [torch.Generator().manual_seed(0)] for i in range(16)]
    dls = DataLoaders.from_dsets(items, items, bs=8, device='cpu', num_workers=0)
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=cbs)
    for dl in learn.dls: dl.rng.seed(0)  # the order of batches
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == 'progress'])
    learn.logger = print
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn.fit(1, 1e-2)
    return learn, [str(w.message) for w in seen if 'scheduler' not in str(w.message)]
"""
CRASHES = dict(
    wrapper="""
        acts = []
        def keep(x): acts.append(x.detach().double()); return Wrapped(x.detach())
        learn, seen = fit(nn.Sequential(nn.Linear(5, 4), Aside(keep), nn.Linear(4, 2)), ActStats('1.child'))
        rec = learn.act_stats.record
        assert not seen and rec.count.tolist() == [[32], [32]], (seen, rec.count)
        for m, s, a in zip(rec.mean[:, 0], rec.std[:, 0], acts):
            assert abs(m - a.mean()) < 1e-6 and abs(s - a.std()) < 1e-6""",
    wrapper_that_refuses="""
        class Refuses(Wrapped):
            @classmethod
            def __torch_dispatch__(cls, f, types, args=(), kwargs=None):
                if f is torch.ops.aten.detach.default: return args[0]
                raise NotImplementedError(f"no {f}")
        model = nn.Sequential(nn.Linear(5, 4), Aside(lambda x: Refuses(x.detach())), nn.Linear(4, 2))
        learn, seen = fit(model, ActStats(['1.child', '2']))
        rec = learn.act_stats.record
        assert len(seen) == 1 and "'1.child'" in seen[0] and 'a Refuses' in seen[0], seen
        assert rec['2'].count.tolist() == [[16], [16]]""",
    zeros_that_are_nowhere="""
        model = nn.Sequential(nn.Linear(5, 4), Aside(lambda x: torch._efficientzerotensor(x.shape)), nn.Linear(4, 2))
        learn, seen = fit(model, ActStats('1.child'))
        rec = learn.act_stats.record
        assert not seen and rec.count.tolist() == [[32], [32]] and (rec.mean == 0).all() and (rec.max == 0).all()""",
    freed_memory="""
        def free(x):
            x = x.detach().clone()
            x.untyped_storage().resize_(0)
            return x
        learn, seen = fit(nn.Sequential(nn.Linear(5, 4), Aside(free), nn.Linear(4, 2)), ActStats(['1.child', '2']))
        assert len(seen) == 1 and "'1.child'" in seen[0] and 'freed' in seen[0], seen
        assert learn.act_stats.record['2'].count.tolist() == [[16], [16]]""",
    fully_sharded="""
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
        from fastai_actstats.core.summary import Summary
        dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
        mesh = init_device_mesh('cpu', (1,))
        x = torch.randn(7, 5)
        assert torch.equal(Summary.of(distribute_tensor(x, mesh, [Shard(0)]).t()).rows, Summary.of(x).rows)
        try: Summary.of(DTensor.from_local(x, mesh, [Partial()]))
        except TypeError as e: assert 'a DTensor' in str(e) and 'no process holds its values' in str(e)
        else: assert False
        records = []
        for shard in (False, True):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
            if shard: fully_shard(model[0]); fully_shard(model); assert isinstance(model[0].weight, DTensor)
            learn, seen = fit(model, ActStats(), GradStats(), WeightStats())
            assert not seen, seen
            w = learn.weight_stats
            records.append([learn.act_stats.record, learn.grad_stats.record, w.record, w.grads, w.updates])
        for plain, sharded in zip(*records):
            assert plain.layers == sharded.layers and (plain.count > 0).all() and (plain.count == sharded.count).all()
            assert (plain.hist == sharded.hist).all() and abs(plain.mean - sharded.mean).max() < 1e-6
        dist.destroy_process_group()""")

FORK = """
import os, sys, traceback
for name, code in CRASHES.items():
    pid = os.fork()
    if not pid:
        log = os.open(os.path.join(FOLDER, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        try:
            exec(code, globals())
            os._exit(0)
        except BaseException: traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    print(name, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

def run(code, **env):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, timeout=300,
                          env=os.environ | env)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout

@pytest.fixture(scope='module')
def fates(tmp_path_factory):
    "Name → how the process that tried it ended, and what it said; all are forked from one, which has imported all"
    folder = tmp_path_factory.mktemp('crashes')
    codes = {name: textwrap.dedent(code) for name, code in CRASHES.items()}
    out = run(HEAD + f"CRASHES, FOLDER = {codes!r}, {str(folder)!r}" + FORK)
    return {name: (int(code), (folder/name).read_text()) for name, code in map(str.split, out.splitlines())}

@pytest.mark.slow
@pytest.mark.parametrize('name', CRASHES)
def test_memory_that_is_not_there_kills_no_process(fates, name):
    code, said = fates[name]
    assert code == 0, f"exit {code}\n{said}"

# Kernels that cannot work

@pytest.fixture
def fresh(monkeypatch):
    "As if no kernel had been tried in this process; `fresh.cpu` is the kernel's module"
    def clear(): dispatch._chosen.clear(), dispatch._given_up.clear(), load_kernel.cache_clear(), try_out.cache_clear()
    cpu = import_module('fastai_actstats.kernels.cpu')
    clear()
    yield SimpleNamespace(cpu=cpu, patch=lambda f: monkeypatch.setattr(cpu, 'reduce_', f), clear=clear)
    monkeypatch.undo()
    clear()

def no_compiler(*args): raise OSError("no compiler here")

def miscounts(real):
    def f(x, row, bins):
        real(x, row, bins)
        row[7] += 1
    return f

def off(real):
    def f(x, row, bins):
        real(x, row, bins)
        row[eager.MEAN] *= 1.01
    return f

def only(dtype, real):
    def f(x, row, bins):
        if x.dtype == dtype: raise ValueError("not this one")
        real(x, row, bins)
    return f

BROKEN = dict(raises=(lambda real: no_compiler, 'OSError: no compiler here'),
              miscounts=(miscounts, 'not what the eager kernel counts'),
              drifts=(off, 'not what the eager kernel counts'),
              bfloat16=(lambda real: only(torch.bfloat16, real), 'ValueError: not this one'))

@pytest.mark.parametrize('how', BROKEN)
def test_a_kernel_that_does_not_work_is_found_out(fresh, how):
    make, why = BROKEN[how]
    fresh.patch(make(fresh.cpu.reduce_))
    x = torch.randn(100)
    with pytest.warns(UserWarning, match=f"the 'cpu' kernel does not work here .*{why}.*several times slower") as seen:
        for _ in range(3): got = Summary.of(x)
    assert len(seen) == 1 and torch.equal(got.rows, Summary.of(x, kernel='eager').rows) and kernel_for(x) is eager
    with pytest.raises(RuntimeError, match=f"kernel='cpu' does not work here: .*{why}"): Summary.of(x, kernel='cpu')

def recorded(learner, lr, **kwargs):
    learn = learner([ActStats(**kwargs), WeightStats(**kwargs)])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn.fit(1, lr)
    assert not learn.act_stats.accumulator.left_out
    return [learn.act_stats.record, learn.weight_stats.record], [str(w.message) for w in seen]

def equal(some, others):
    for a, b in zip(some, others):
        assert a.layers == b.layers and len(a) and (a.count > 0).all() and (a.count == b.count).all()
        assert (a.hist == b.hist).all()
        assert np.allclose(a.mean, b.mean, rtol=1e-9, atol=1e-12) and np.allclose(a.std, b.std, rtol=1e-9, atol=1e-12)

@pytest.mark.slow
def test_a_kernel_that_does_not_work_loses_no_record(fresh, learner, settings, record_row):
    want, seen = recorded(learner, settings.lr, kernel='eager')
    assert not seen
    fresh.patch(no_compiler)
    got, seen = recorded(learner, settings.lr)
    assert len(seen) == 1 and 'OSError: no compiler here' in seen[0], seen
    equal(got, want)
    assert not recorded(learner, settings.lr)[1]  # said once a process
    learn = learner(ActStats(kernel='cpu'))
    before = [p.detach().clone() for p in learn.model.parameters()]
    with pytest.raises(RuntimeError, match="kernel='cpu' does not work here: OSError: no compiler here"):
        learn.fit(1, settings.lr)
    assert all(map(torch.equal, before, learn.model.parameters()))
    record_row('faults', 'a compiled kernel that does not work',
               'yes, by the one in torch', 'yes, or refused before', '-')

@pytest.mark.slow
@pytest.mark.parametrize('kernel', ['auto', 'cpu'])
def test_a_kernel_that_fails_amid_a_fit_loses_no_batch(fresh, learner, settings, kernel, record_row):
    want, _ = recorded(learner, settings.lr, kernel='eager')
    kernel_for(empty(bins=Bins()), kernel)
    real, calls = fresh.cpu.reduce_, []
    def fails_later(x, row, bins):
        calls.append(x)
        if len(calls) > 20: raise OSError("gone")
        real(x, row, bins)
    fresh.patch(fails_later)
    got, seen = recorded(learner, settings.lr, kernel=kernel)
    assert len(seen) == 1 and 'OSError: gone' in seen[0] and len(calls) > 20, seen
    equal(got, want)
    if kernel == 'auto': assert len(calls) == 21  # and is called no more
    record_row('faults', 'a compiled kernel that fails amid a fit', 'yes, by the one in torch', '-', '-')

def test_no_room_is_no_reason_to_give_a_kernel_up(fresh):
    x, row = torch.randn(100), empty(bins=Bins())
    fold(x, row, Bins())
    def full(*args): raise MemoryError("no room")
    real = fresh.cpu.reduce_
    fresh.patch(full)
    with pytest.raises(MemoryError): fold(x, row, Bins())
    fresh.patch(real)
    assert kernel_for(x) is fresh.cpu and int(row[0]) == 100

def test_trying_out_leaves_the_random_state_and_knows_every_dtype(fresh):
    state, seen, real = torch.get_rng_state(), set(), fresh.cpu.reduce_
    def note(x, row, bins):
        seen.add((x.dtype, bins.per_octave > 0, bool(x.isfinite().all())))
        real(x, row, bins)
    fresh.patch(note)
    for context in (torch.inference_mode(), torch.device('meta')):
        fresh.clear()
        with context:
            assert (kernel_for(empty(bins=Bins(), device='cpu')) is eager
                    and kernel_for(torch.zeros(1, device='cpu')) is fresh.cpu)
    assert seen == {(d, log, False) for d in fresh.cpu.DTYPES for log in (False, True)}
    assert torch.equal(state, torch.get_rng_state())

def test_a_package_that_is_missing_is_not_worth_a_warning(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, 'numba', None)
    assert int(Summary.of(torch.ones(5)).count) == 5 and kernel_for(torch.ones(5)) is eager
    with pytest.raises(ImportError, match=r"kernel='cpu' needs numba \(pip install"):
        Summary.of(torch.ones(5), kernel='cpu')

@pytest.mark.slow
def test_a_broken_installation_is_named(tmp_path):
    (tmp_path/'numba.py').write_text("raise AttributeError('llvmlite is too old')")
    run("""
import warnings
import torch
from fastai_actstats.core.summary import Summary
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    for _ in range(3): assert Summary.of(torch.arange(5.)).mean == 2
assert len(seen) == 1, seen
assert "the 'cpu' kernel does not work here (AttributeError: llvmlite is too old)" in str(seen[0].message), seen
try: Summary.of(torch.ones(5), kernel='cpu')
except RuntimeError as e: assert "kernel='cpu' does not work here: AttributeError: llvmlite is too old" in str(e), e
else: assert False
""", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))

def test_only_what_lies_in_memory_is_readable():
    x = torch.randn(4, 4)
    assert readable(x) and readable(x[2:]) and readable(torch.nn.Parameter(x)) and readable(x[:, :1][:1])
    assert not any(map(readable, (x.t(), x[0].expand(2, 4), x.long(), x.to('meta'), torch._efficientzerotensor(4),
                                  torch._neg_view(x),
                                  x.to_sparse(), torch.zeros(0))))
