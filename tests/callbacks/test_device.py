"""Nothing between the beginning of an epoch and its end waits for an accelerator, or copies from or to it."""
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastai_actstats.callbacks.channels import ChannelTap
from fastai_actstats.callbacks.gradients import GradTap
from fastai_actstats.callbacks.hooks import Tap
from fastai_actstats.core.accumulator import Accumulator
from fastai_actstats.core.channel_accumulator import ChannelAccumulator
from fastai_actstats.kernels.bins import Bins


class StaysThere(TorchDispatchMode):
    "Complains of every operation that brings values from one device to another"
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor) and x.dim()}
        assert len(devices) <= 1, f"{f} between {devices}"
        return out

def taps(kernel):
    acts, grads = Accumulator(Bins(), capacity=4), Accumulator(Bins.symlog(), capacity=4, when_full='overwrite')
    units = ChannelAccumulator(window=2, capacity=4)
    for r in (acts, grads): r.add_layers(['a', 'b'], torch.device('cuda'))
    units.add_layers([], torch.device('cuda'))
    return {acts: [Tap(acts, n, kernel=kernel) for n in 'ab'], grads: [GradTap(grads, n, kernel=kernel) for n in 'ab'],
            units: [ChannelTap(units, n, 'relu', lambda shape: 1) for n in 'ab']}

def steps(watched, make, n):
    for _ in range(n):
        for recorder, hooks in watched.items():
            recorder.begin_batch(True)
            for hook, x in zip(hooks, make()):
                hook(nn.ReLU(), (), x)
                if isinstance(hook, GradTap): hook.arrive(hook.row, x.detach()*1e-3)
            recorder.batch.step_done()
            recorder.end_batch((0, 0))

@pytest.mark.parametrize('kernel', ['auto', 'eager'])
def test_steps_and_merging_need_no_value_on_the_host(kernel):
    "on tensors that have a device but no values: to read one is an error there"
    with FakeTensorMode():
        watched = taps(kernel)
        steps(watched, lambda: [torch.empty(64, 8, 14, 14, device='cuda'),
                                torch.empty(32, 3, 5, 5, device='cuda').transpose(0, 2)], 1)
        with StaysThere():
            steps(watched, lambda: [torch.empty(64, 8, 14, 14, device='cuda'),
                                    torch.empty(32, 3, 5, 5, device='cuda').transpose(0, 2)], 40)
        for recorder in watched:
            assert not recorder.left_out and recorder.step == 41 and 2 <= len(recorder.rings[False]) <= 4
            assert recorder.rows.is_cuda
        with pytest.raises(DataDependentOutputException): recorder.rows[0, 0].item()
        with pytest.raises(AssertionError), StaysThere(): recorder.rows.cpu()

@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize('kernel', ['cuda', 'eager'])
def test_a_gpu_is_not_waited_for(kernel):
    x = [torch.randn(64, 8, 14, 14, device='cuda'), torch.randn(32, 3, 5, 5, device='cuda').transpose(0, 2)]
    watched = taps(kernel)
    steps(watched, lambda: x, 1)  # compiles
    torch.cuda.set_sync_debug_mode('error')
    try: steps(watched, lambda: x, 40)
    finally: torch.cuda.set_sync_debug_mode('default')
    assert all(not recorder.left_out and recorder.step == 41 for recorder in watched)
