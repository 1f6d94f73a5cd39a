"""Records: slices, tables, errors, on a run of two fits."""
import numpy as np
import pytest
import torch

from fastai_actstats.all import ActStats, Record
from fastai_actstats.kernels.eager import MEAN, merge


def test_columns(rec):
    assert len(rec.train) == 3*14 and len(rec.valid) == 3*5
    assert rec.train.steps.tolist() == [[i, i] for i in range(42)]
    assert rec.train.epochs.tolist() == [0]*14 + [1]*14 + [2]*14 and rec.train.fits.tolist() == [0]*28 + [1]*14
    assert rec.phase[:19].tolist() == ['train']*14 + ['valid']*5 and (rec.valid.steps[:5] == 13).all()

def test_shapes_and_types(rec):
    T, L, B = len(rec), 9, 80
    for name in ('mean', 'std', 'min', 'max', 'near_zero'):
        assert getattr(rec, name).shape == (T, L) and getattr(rec, name).dtype == np.float64
    for name in ('count', 'nonfinite', 'underflow', 'overflow'):
        assert getattr(rec, name).shape == (T, L) and getattr(rec, name).dtype == np.int64
    assert rec.hist.shape == (T, L, B) and rec.hist.dtype == np.int64 and rec.steps.shape == (T, 2)
    assert rec.edges.shape == (B + 1,)

def test_slices(rec):
    assert rec['0.0'].layers == rec[0].layers == ['0.0'] and rec[-1].layers == ['4.0']
    assert rec['*.1'].layers == ['0.1', '1.1', '2.1', '3.1']
    assert rec[['4.0', 1]].layers == ['4.0', '0.1'] and rec[2:4].layers == ['1.0', '1.1']
    assert (rec['2.0'].mean[:, 0] == rec.mean[:, 4]).all()
    assert set(rec.epoch(1).epochs) == {1} and set(rec.epoch(-1).epochs) == {2} and set(rec.fit(-1).epochs) == {2}
    assert rec.train.between(5, 8).steps.tolist() == [[i, i] for i in range(5, 9)]

def test_merging_equals_the_summary_of_all_values(rec):
    for most in (1, 4, 7):
        some = rec.train.merged(most)
        assert len(some) <= most and some.columns['steps'].sum() == 42 and some.count.sum() == rec.train.count.sum()
        for row, c in zip(some.summary.rows, some.columns):
            want = merge(rec.train.summary.rows[c['first']:c['last'] + 1])
            assert torch.equal(row[:, :MEAN], want[:, :MEAN])
            torch.testing.assert_close(row, want, rtol=1e-12, atol=1e-12)

def test_modal_bin(rec):
    counts = rec.train.hist[20, 3]
    low, high = rec.train.modal_bin('1.1', step=20)
    assert np.isclose(high - low, .25) and counts[int(round((low + 10)/.25))] == counts.max()

def test_to_df(rec):
    df = rec.to_df()
    assert len(df) == len(rec)*9
    row = df[(df.layer == '3.1') & (df.step == 30) & (df.phase == 'train')].iloc[0]
    assert row.epoch == 2 and row.fit == 1 and row['std'] == rec.train['3.1'].std[30, 0] and row['count'] == 64*64*2*2

@pytest.mark.parametrize('wrong,match', [
    (lambda r: r['5.0'], "layer '5.0' is not among the 9 recorded: 0.0, 0.1"),
    (lambda r: r[9], 'layer 9 is not among the 9'), (lambda r: r[[0, -10]], 'layer -10'),
    (lambda r: r.epoch(3), 'epoch 3 is not among those recorded, 0 to 2'),
    (lambda r: r.epoch(-4), 'epoch -4'), (lambda r: r.fit(2), 'fit 2 is not among those recorded, 0 to 1'),
    (lambda r: r.between(100, 200), 'no step from 100 to 200 is recorded: there is 0 to 41'),
    (lambda r: r.modal_bin('0.0', step=99), 'no step from 99')])
def test_what_is_not_there_is_named(rec, wrong, match):
    with pytest.raises(IndexError, match=match): wrong(rec)

def test_an_empty_record_has_nothing_to_draw():
    empty = ActStats().record
    assert isinstance(empty, Record) and len(empty) == 0 and 'nothing recorded' in repr(empty)
    assert len(empty.to_df()) == 0
    for draw in (empty.color_dim, empty.plot_stats):
        with pytest.raises(ValueError, match='nothing to draw.*nothing recorded'): draw()
