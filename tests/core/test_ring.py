"""The ring at any length, against the merge of the single summaries."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastai_actstats.core.ring import WAITING, Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.eager import MEAN, merge, width

BINS = Bins.linear(8, (-4, 4))

@pytest.fixture(scope='module')
def blocks():
    torch.manual_seed(1)
    return torch.stack([torch.stack([Summary.of(torch.randn(5 + i % 7) + i/300, BINS).rows for _ in range(2)])
                        for i in range(1000)])

def filled(blocks, n, **kwargs):
    ring = Ring(layers=2, bins=BINS, **kwargs)
    for step in range(n): ring.push(blocks[step], step, epoch=step//100, fit=step//500)
    return ring

@pytest.mark.parametrize('capacity,n', [(64, 1000), (65, 1000), (63, 777), (2, 9), (3, 100), (7, 5)])
def test_merged_columns_equal_the_merge_of_their_steps(blocks, capacity, n):
    rows, columns = filled(blocks, n, capacity=capacity).read()
    assert len(columns) <= capacity and (n < capacity or len(columns) >= capacity//2)
    assert columns['first'][0] == 0 and columns['last'][-1] == n - 1
    assert (columns['first'][1:] == columns['last'][:-1] + 1).all()
    assert (columns['steps'] == columns['last'] - columns['first'] + 1).all()
    assert len(set(columns['steps'][:-1])) <= 1, "all columns but the last stand for equally many steps"
    for row, c in zip(rows, columns):
        want = merge(blocks[c['first']:c['last'] + 1])
        assert torch.equal(row[:, :MEAN], want[:, :MEAN])
        torch.testing.assert_close(row, want, rtol=1e-12, atol=1e-14)
        assert (c['epoch'], c['last_epoch'], c['fit'], c['last_fit']) == (c['first']//100, c['last']//100,
                                                                          c['first']//500, c['last']//500)

@pytest.mark.parametrize('capacity,n', [(64, 1000), (65, 130), (2, 9), (7, 5), (7, 7), (7, 8)])
def test_overwriting_keeps_the_last_columns(blocks, capacity, n):
    rows, columns = filled(blocks, n, capacity=capacity, when_full='overwrite').read()
    kept = min(n, capacity)
    assert columns['first'].tolist() == columns['last'].tolist() == list(range(n - kept, n))
    assert torch.equal(rows, blocks[n - kept:n])

@settings(max_examples=40, deadline=None)
@given(capacity=st.integers(2, 9), parts=st.lists(st.integers(1, 4), max_size=40),
       when_full=st.sampled_from(['merge', 'overwrite']))
def test_parts_of_a_step_share_its_column(capacity, parts, when_full):
    ring, block = Ring(capacity, 1, BINS, when_full), Summary.of(torch.ones(1), BINS).rows[None]
    for step, n in enumerate(parts):
        for i in range(n): ring.push(block, step, part=i > 0)
    rows, columns = ring.read()
    assert columns['steps'].sum() == (len(parts) if when_full == 'merge' else min(len(parts), capacity))
    for row, c in zip(rows, columns): assert row[0, 0] == sum(parts[c['first']:c['last'] + 1])

def test_memory_does_not_grow(blocks):
    size = (64 + WAITING)*2*width(BINS)*8 + 64*Ring().columns.itemsize
    assert filled(blocks, 10, capacity=64).nbytes == filled(blocks, 1000, capacity=64).nbytes == size

def test_reading_in_between_changes_nothing(blocks):
    quiet, read = (Ring(4, 2, BINS) for _ in range(2))
    for step in range(200):
        for ring in (quiet, read): ring.push(blocks[step], step)
        if step % 7 == 0: assert read.read()[0][..., 0].sum() == blocks[:step + 1, :, 0].sum()
    torch.testing.assert_close(read.read()[0], quiet.read()[0], rtol=1e-12, atol=1e-14)

def test_growing_leaves_old_columns_without_values(blocks):
    ring = filled(blocks, 5, capacity=8)
    ring.grow(3)
    ring.push(torch.cat([blocks[5], blocks[6][:1]]), 5)
    s = Summary(ring.read()[0], BINS)
    assert s.count[:5, 2].eq(0).all() and s.count[5, 2] > 0 and s.mean[:5, 2].isnan().all()
    assert s.mean[:5, :2].isfinite().all()

def test_a_pickle_holds_what_is_held(blocks):
    import pickle
    small, again = (pickle.dumps(filled(blocks, n, capacity=100_000)) for n in (3, 30))
    assert len(small) < len(again) < 30_000 + 40*blocks[0].nbytes
    ring = pickle.loads(again)
    ring.push(blocks[30], 30)
    assert torch.equal(ring.read()[0], blocks[:31]) and ring.capacity == 100_000

@pytest.mark.parametrize('kwargs,error,match', [
    (dict(capacity=1), ValueError, 'capacity=1 must be at least 2'), (dict(capacity=2.5), TypeError, 'capacity=2.5'),
    (dict(when_full='drop'), ValueError, "when_full='drop' must be one of .*merge.*overwrite")])
def test_bad_input(kwargs, error, match):
    with pytest.raises(error, match=match): Ring(**kwargs)
