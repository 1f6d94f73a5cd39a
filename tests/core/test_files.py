"""Records in files: whatever is saved comes back; whatever is wrong with a file is said in one sentence."""
import io
import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from damage import Bomb, mutant, npy, rezip
from helpers import StopAt, make_record, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastai_actstats.all import ActStats, Bins, Record, SaveRecord
from fastai_actstats.core import files
from fastai_actstats.core.columns import COLUMN, as_columns
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels.eager import COUNT, COUNTS, MAX, MEAN, MIN, empty

TEXT = st.text(max_size=12)  # any character there is, lone surrogates left out
WORDS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NOTES = st.recursive(WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
                     max_leaves=6)

@st.composite
def records(draw):
    "Any record: any layers, columns and bins, layers that did not run, NaN, Inf and values out of range"
    if draw(st.booleans()):
        bins = Bins(draw(st.integers(1, 9)), draw(st.floats(-9, -1)), draw(st.floats(-.5, 9)), draw(st.floats(0, 1)))
    else: bins = Bins.symlog(2.**-draw(st.integers(1, 5)), 2.**draw(st.integers(0, 5)), 2**draw(st.integers(0, 2)))
    layers = draw(st.lists(TEXT, max_size=3))
    ring = Ring(draw(st.integers(2, 6)), len(layers), bins, draw(st.sampled_from(('merge', 'overwrite'))))
    values = np.random.default_rng(draw(st.integers(0, 999)))
    for step in range(draw(st.integers(0, 9))):
        rows = Summary.empty(len(layers), bins=bins).rows
        for row in rows:
            x = values.normal(size=draw(st.integers(0, 20)))*10.**draw(st.integers(-30, 30))
            x[values.random(len(x)) < .1] = draw(st.sampled_from((0., np.nan, np.inf, -np.inf, -0.)))
            row.copy_(Summary.of(torch.from_numpy(x), bins).rows)
        ring.push(rows, step, epoch=step//4, fit=step//6, valid=draw(st.booleans()))
    info = {n: dict(type=draw(TEXT), shape=tuple(draw(st.lists(st.integers(0, 2**40), max_size=3)))) for n in layers
            if draw(st.booleans())}
    return Record(*ring.read(), layers, bins, draw(st.sampled_from(('activations', 'gradients'))), info,
                  tuple(draw(st.lists(st.integers(0, 9), max_size=3))), draw(NOTES))

@given(records())
@settings(max_examples=150, deadline=None)
def test_what_is_saved_comes_back(tmp_path_factory, rec):
    path = tmp_path_factory.getbasetemp()/'any.npz'
    rec.save(path)
    once = Record.load(path)
    assert once == rec
    once.save(path)
    twice = Record.load(path)
    assert twice == once and twice.made == once.made and twice.made['versions']['torch'] == torch.__version__
    for name in ('mean', 'std', 'min', 'max', 'near_zero', 'count', 'hist', 'underflow', 'overflow', 'nonfinite',
                 'steps', 'edges'):
        np.testing.assert_array_equal(getattr(twice, name), getattr(rec, name))

def refused(path, match='was not loaded', **kwargs):
    with pytest.raises(ValueError, match=match) as e: Record.load(path, **kwargs)
    said = str(e.value)
    assert '\n' not in said and len(said) < 400 and str(path) in said

def test_a_thousand_mutated_files_are_equal_or_refused(tmp_path):
    rec, path = make_record(notes={'lr': .06}), tmp_path/'run.npz'
    Bomb.path = str(tmp_path/'was-run')
    data = rec.save(path).read_bytes()
    rng, equal = np.random.default_rng(0), 0
    for _ in range(1000):
        path.write_bytes(mutant(rng, data))
        try: back = Record.load(path)
        except ValueError as e:
            assert str(e).startswith(f"'{path}' was not loaded: it") and '\n' not in str(e) and len(str(e)) < 400
        else:
            assert back == rec
            equal += 1
    assert 0 < equal < 200  # bits that zip does not look at
    assert not os.path.exists(Bomb.path), 'code in a file was run'

def test_bombs_are_refused_before_they_unpack(tmp_path):
    rec, path = make_record(), tmp_path/'run.npz'
    data = rec.save(path).read_bytes()
    path.write_bytes(rezip(data, lambda m: m.update({'counts.npy': bytes(50_000_000)})))  # 50 kB of deflate
    refused(path, 'unpack to more than limit=1000000 bytes', limit=10**6)
    refused(path, "array 'counts'|damaged")
    import tracemalloc
    path.write_bytes(rezip(data, lambda m: m.update({'counts.npy': m['counts.npy'][:128] + bytes(50_000_000)})))
    tracemalloc.start()
    refused(path, "array 'counts' has another length")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    lying = bytearray(data)  # the directory of the zip claims a terabyte
    at = data.rindex(b'PK\x01\x02')
    lying[at + 24:at + 28] = (2**32 - 2).to_bytes(4, 'little')
    path.write_bytes(lying)
    refused(path, 'claims to hold more|more than limit')

def forge(data, change):
    "A file whose checksum is right: meta and arrays changed by `change`, then signed again"
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        arrays = {n[:-4]: np.load(io.BytesIO(z.read(n))).copy() for n in z.namelist()}
    meta = json.loads(arrays.pop('meta').tobytes())
    change(meta, arrays)
    meta['sha256'] = files._digest(meta, {n: np.ascontiguousarray(a) for n, a in arrays.items()})
    arrays['meta'] = np.frombuffer(json.dumps(meta).encode(), 'u1')
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()

@pytest.mark.parametrize('change, why', [
    (lambda m, a: m.update(version=3), 'format 3, written by fastai_actstats 0.0.1, and this version reads formats'),
    (lambda m, a: m.update(version=3, made={}), 'format 3, written by fastai_actstats another version'),
    (lambda m, a: m.update(version=True), 'format True'),
    (lambda m, a: m.update(version=1), "array 'moments'"),
    (lambda m, a: m.update(format='weights'), 'not a record'),
    (lambda m, a: a.update(extra=np.zeros(2)), 'other arrays than a record does'),
    (lambda m, a: a['count'].__setitem__((0, 0), 41), 'counts do not add up'),
    (lambda m, a: a['near_zero'].__setitem__((0, 0), 41), 'counts do not add up'),
    (lambda m, a: a['counts'].__setitem__((0, 0, 0), -1), 'negative counts'),
    (lambda m, a: a['count'].__setitem__((0, 0), 2**60), 'larger than can be'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 4), np.nan), 'extremes make no sense'),
    (lambda m, a: a['columns']['last'].__setitem__(3, -1), 'end before they begin'),
    (lambda m, a: a['columns']['steps'].__setitem__(3, -1), 'columns make no sense'),
    (lambda m, a: m['layers'].append('one more'), "array 'count' is headed"),
    (lambda m, a: m['layers'].__setitem__(0, 7), 'layer names are not text'),
    (lambda m, a: m.update(columns=True), 'True columns'),
    (lambda m, a: m['bins'].update(n=10**9), '1000000000 bins'),
    (lambda m, a: m['bins'].update(n='12'), 'bins are not bins'),
    (lambda m, a: m['bins'].update(lo=5.), 'must go from a smaller'),
    (lambda m, a: m['info'].update({'0': 3}), 'description of the layers is none'),
    (lambda m, a: m['ranks'].append('0'), 'ranks are no numbers'),
    (lambda m, a: a.update(count=a['count'].astype('i4')), "array 'count' is headed .*i4"),
    (lambda m, a: m['bins'].update(per_octave=3), 'bins are not bins'),
    (lambda m, a: m['bins'].update(n=13, per_octave=4), 'bins are not bins'),
    (lambda m, a: m['bins'].update(eps='0.1'), 'bins are not bins'),
    (lambda m, a: m['info']['0'].update(type=5), 'description of the layers is none'),
    (lambda m, a: m['info']['0'].update(shape=[3, 'x']), 'description of the layers is none'),
    (lambda m, a: m['info']['0'].update(order='first'), 'description of the layers is none'),
    (lambda m, a: m['ranks'].append(-1), 'ranks are no numbers'),
    (lambda m, a: m['layers'].__setitem__(0, '\ud800'), 'damaged, or no record'),
    (lambda m, a: a['columns'].__setitem__(slice(None), a['columns'][::-1].copy()), 'not in the order of time'),
    (lambda m, a: a['columns']['first'].__setitem__(3, 0), 'not in the order of time'),
    (lambda m, a: a['columns']['epoch'].__setitem__(0, 2), 'end before they begin|not in the order of time'),
    (lambda m, a: [a['columns'][k].__setitem__(0, 2) for k in ('fit', 'last_fit')], 'not in the order of time'),
    (lambda m, a: a['columns']['first'].__setitem__(0, -1), 'columns make no sense'),
    (lambda m, a: a['columns']['last_epoch'].__setitem__(11, 2**62), 'columns make no sense'),
    (lambda m, a: a['columns']['steps'].__setitem__(0, 0), 'columns make no sense'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 0), 99.), 'means and deviations make no sense'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 1), -1.), 'means and deviations make no sense'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 1), 1e9), 'means and deviations make no sense'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 2), 1e9), 'third and fourth moments make no sense'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 3), -1.), 'third and fourth moments make no sense'),
    (lambda m, a: a['moments'].__setitem__((0, 0, 2), np.nan), 'third and fourth moments make no sense'),
    (lambda m, a: [a[k].__setitem__((0, 0), 0) for k in ('count', 'counts', 'near_zero')], 'statistics of no values'),
    (lambda m, a: a.update(count=np.asfortranarray(a['count'])), "array 'count'"),
])
def test_what_makes_no_sense_is_refused_even_when_signed(tmp_path, change, why):
    path = tmp_path/'run.npz'
    path.write_bytes(forge(make_record().save(path).read_bytes(), change))
    refused(path, why)

NUMBERS = 0, -1, 1, 2, 3, 7, 2**31, 2**53, 2**62, 2**63 - 1, -2**63
WORDS = None, 'x', 'ReLU', [], [3, 4], [1, 'a'], {}, -1, 2**70, 1.5, True, '$x$', '<b>', ''

def senseless(rng, meta, arrays):
    "Another word in the description, other columns, other values"
    kind, c = rng.integers(5), arrays['columns']
    if kind == 0:
        what = rng.choice(['layers', 'what', 'info', 'ranks', 'notes', 'made', 'bins'])
        word = WORDS[rng.integers(len(WORDS))]
        if what == 'layers': meta[what][rng.integers(3)] = word
        elif what == 'info': meta[what]['0'][rng.choice(['type', 'shape', 'then', 'order', 'new'])] = word
        elif what == 'bins':
            meta[what][rng.choice(sorted(meta[what]))] = [0, 1, 2, 4, -1.5, 1e-300, 1e300, 12, 256,
                                                          word][rng.integers(10)]
        else: meta[what] = word
    elif kind == 1:
        name = rng.choice(list(COLUMN.names))
        if name == 'valid': c[name][rng.random(len(c)) < rng.random()] = True
        elif rng.random() < .4: c[name] = rng.permutation(c[name])
        else: c[name][rng.integers(len(c)):] = rng.choice(NUMBERS)
    elif kind == 2:
        i, value = rng.integers(6), rng.choice([0, np.nan, np.inf, -np.inf, 1e90, -1e90, 1e-320, -5.])
        arrays['moments'][rng.integers(12), rng.integers(3), slice(i, i + rng.integers(1, 4))] = value
    elif kind == 3:  # a layer that did not run, or gave one value many times
        i = rng.integers(12), rng.integers(3)
        n = int(rng.choice([0, 0, 40, 2**52]))
        for name in ('near_zero', 'nonfinite', 'counts'): arrays[name][i] = 0
        arrays['count'][i] = arrays['counts'][i][rng.integers(14)] = n
        if not n: arrays['moments'][i] = 0, 0, 0, 0, np.inf, -np.inf
    else:
        meta['columns'] = int(rng.integers(0, 3))
        for name in arrays: arrays[name] = arrays[name][:meta['columns']]

def use(rec, tmp_path):
    "Whatever a record offers"
    import matplotlib.pyplot as plt

    from fastai_actstats.all import compare, merge_records
    for name in dir(Record):
        if isinstance(getattr(Record, name), property): getattr(rec, name)
    assert repr(rec) and rec._repr_html_() and len(rec.to_df()) == len(rec)*len(rec.layers)
    assert len(rec.overview()) == len(rec.layers)
    rec.report(), rec.quantile(.5), rec[::2], [rec[n] for n in rec.layers], rec.to_csv(tmp_path/'a.csv')
    few = rec.merged(3)
    for part in (rec, few):
        assert Record.load(part.save(tmp_path/'again.npz')) == part
    if not len(rec): return
    first, last = int(rec.steps.min()), int(rec.steps.max())
    rec.epoch(-1), rec.fit(-1), rec.between(first, last), rec.modal_bin(0, int(rec.steps[0, 0]))
    merge_records({0: rec, 1: rec})
    both = compare(a=rec, b=few if rec.columns['valid'].all() == few.columns['valid'].all() else rec)
    both.table(), both.distances()
    for draw in (rec.color_dim, rec.plot_stats, rec.heatmap, lambda: rec.ridge(rec.layers[0]), rec.first_last,
                 both.color_dim, both.plot_stats):
        drawn = np.ravel(draw())[0]
        drawn.figure.savefig(tmp_path/'a.png', dpi=20)
        plt.close('all')

@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::RuntimeWarning')  # pictures of numbers that no run gives
def test_what_is_loaded_can_be_used(tmp_path):
    path, used, seed = tmp_path/'run.npz', 0, 0
    end = time.perf_counter() + float(os.environ.get('ACTSTATS_FUZZ_SECONDS', 8))
    data = make_record(notes={'a': 1}).save(path).read_bytes()
    while time.perf_counter() < end or not used:
        rng, seed = np.random.default_rng(seed), seed + 1
        path.write_bytes(forge(data, partial(senseless, rng)))
        try: rec = Record.load(path)
        except ValueError as e: assert str(e).startswith(f"'{path}' was not loaded: it") and '\n' not in str(e)
        else:
            try: use(rec, tmp_path)
            except Exception as e: raise AssertionError(f"seed {seed - 1} loads and does not work") from e
            used += 1

def test_layers_that_did_not_run_are_compared(tmp_path):
    from fastai_actstats.all import compare
    rec = make_record()
    rec.summary.rows[2:5, 1] = Summary.empty(bins=rec.bins).rows
    compare(a=rec, b=make_record()).plot_stats()

def test_joined_phases_stay_in_order(tmp_path):
    ring = {False: Ring(64, 1, Bins(4, -1, 1)), True: Ring(4, 1, Bins(4, -1, 1))}
    one = Summary.of(torch.zeros(3), ring[True].bins).rows[None]
    for step in range(40):
        ring[False].push(one, step, step//10)
        if step % 3 == 2: ring[True].push(one, step, step//10, valid=True)
    rows, columns = (np.concatenate(o) for o in zip(*(r.read() for r in ring.values())))
    order = np.lexsort((columns['valid'], columns['last']))
    rec = Record(torch.from_numpy(rows[order]), columns[order], ['a'], ring[True].bins)
    for most in (1, 3, 7, 20, 30):
        few = rec.merged(most)
        assert Record.load(few.save(tmp_path/'few.npz')) == few
        assert few.count.sum() == rec.count.sum() and few.columns['steps'].sum() == rec.columns['steps'].sum()
        assert (few.columns['first'][0], few.columns['last'][-1]) == (0, 39)

def test_forging_nothing_gives_the_same_record(tmp_path):  # so that the refusals above are for the reasons given
    path = tmp_path/'run.npz'
    path.write_bytes(forge(make_record().save(path).read_bytes(), lambda m, a: None))
    assert Record.load(path) == make_record()
    assert set(np.load(path)) == {'meta', 'columns', 'moments', 'count', 'nonfinite', 'near_zero', 'counts'}

def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError): Record.load(tmp_path/'none.npz')
    for name, content in dict(empty=b'', poem=b'Tyger Tyger', npy=npy(np.zeros(3)),
                              pickle=npy(np.array([1, 'a'], object), pickled=True)).items():
        (tmp_path/name).write_bytes(content)
        refused(tmp_path/name)
    np.savez(tmp_path/'other.npz', weights=np.zeros(3))
    refused(tmp_path/'other.npz', 'not a record')

def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path/'run.npz'
    old = make_record(steps=3).save(path).read_bytes()
    for name in ('fsync', 'replace'):
        with monkeypatch.context() as m:
            def stop(*args): raise KeyboardInterrupt
            m.setattr(os, name, stop)
            with pytest.raises(KeyboardInterrupt): make_record(steps=12).save(path)
        assert path.read_bytes() == old and os.listdir(tmp_path) == ['run.npz']
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600

def test_a_link_stays_a_link(tmp_path):
    (tmp_path/'link.npz').symlink_to(tmp_path/'deep'/'run.npz')
    make_record().save(tmp_path/'link.npz')
    assert (tmp_path/'link.npz').is_symlink() and Record.load(tmp_path/'deep'/'run.npz') == make_record()

def test_notes(tmp_path):
    rec = make_record()
    for wrong in ({1: 2}, (1, 2), {'x': object()}, float('nan')):
        with pytest.raises(TypeError, match='^notes='): rec.save(tmp_path/'run.npz', notes=wrong)
    rec.save(tmp_path/'run.npz', notes={'lr': .06})
    back = Record.load(tmp_path/'run.npz')
    assert back.notes == back.epoch(0).merged().notes == {'lr': .06} and back.made['date']
    assert back != rec and rec != 3

def test_tables(tmp_path):
    rec = make_record()
    rec.to_csv(tmp_path/'run.csv')
    rec.to_parquet(tmp_path/'run.parquet')
    for back in (pd.read_csv(tmp_path/'run.csv', dtype={'layer': str}), pd.read_parquet(tmp_path/'run.parquet')):
        assert len(back) == 36 and back.columns.tolist() == rec.to_df().columns.tolist()
        np.testing.assert_allclose(back['std'], rec.std.reshape(-1))
        assert back.layer.tolist()[:3] == ['0', '1', '2']

# the callback
@pytest.mark.parametrize('error', [RuntimeError('power cut'), KeyboardInterrupt()])
def test_an_exception_loses_nothing(tmp_path, error):
    learn = tiny(tmp_path, ActStats(), SaveRecord(notes='a note'), StopAt(2, 3, error))
    with pytest.raises(type(error)): learn.fit(4)
    back = Record.load(tmp_path/'run.npz')
    assert back == learn.act_stats.record.replace(notes='a note') and back.epochs.tolist() == [0]*4 + [1]*4 + [2]*3

@pytest.mark.filterwarnings('ignore:numpy.core is deprecated')  # by what fastai's `lr_find` saves
def test_every_epoch_is_written_and_nothing_else(tmp_path):
    from fastai.callback.core import CancelFitException
    written = []
    class Spy(SaveRecord):
        def write(self, **kwargs):
            super().write(**kwargs)
            self._finish()
            written.append(len(Record.load(tmp_path/'deep'/'run.npz')) if (tmp_path/'deep').exists() else 0)
    learn = tiny(tmp_path, ActStats(), Spy('deep/run.npz'))
    learn.fit(2)
    assert written == [4, 8, 8]
    before = (tmp_path/'deep'/'run.npz').read_bytes()
    learn.validate(); learn.get_preds(); learn.lr_find(num_it=4, show_plot=False, suggest_funcs=None)
    assert (tmp_path/'deep'/'run.npz').read_bytes() == before
    learn.add_cb(StopAt(0, 2, CancelFitException()))
    learn.fit(1)
    assert len(Record.load(tmp_path/'deep'/'run.npz')) == 10  # what an epoch cut short recorded is not lost

class Other(ActStats): what = 'others'

def test_several_records(tmp_path):
    learn = tiny(tmp_path, Other(nn.ReLU), ActStats(), SaveRecord('run.npz'))
    learn.fit(1)
    assert sorted(os.listdir(tmp_path)) == ['run.npz', 'run.other.npz']
    assert Record.load(tmp_path/'run.npz').layers == ['0', '2']
    assert Record.load(tmp_path/'run.other.npz').what == 'others'
    alone = tiny(tmp_path/'alone', Other(nn.ReLU), SaveRecord('run.npz'))
    alone.fit(1)
    assert Record.load(tmp_path/'alone'/'run.npz').layers == ['1']

def test_training_goes_on_when_nothing_can_be_written(tmp_path):
    (tmp_path/'run.npz').mkdir()
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    with pytest.warns(UserWarning, match='run.npz was not written') as found: learn.fit(3)
    assert len(found) == 1 and len(learn.act_stats.record) == 12
    with pytest.raises(ValueError, match='nothing to save'): tiny(tmp_path, SaveRecord()).fit(1)

def test_an_exported_learner_keeps_no_second_record(tmp_path):
    import pickle
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(1)
    assert learn.save_record._last
    cb = learn.save_record
    cb.learn = None
    assert pickle.loads(pickle.dumps(cb))._last == {}

def test_a_part_is_read_as_the_whole_and_the_rest_left(tmp_path, rec):
    file = rec.save(tmp_path/'run.npz', notes=dict(lr=.1))
    whole = Record.load(file)
    some = [n for n in whole.layers if n.endswith('.0')]
    assert 1 < len(some) < len(whole.layers)
    assert Record.load(file, layers='*.0') == whole[some] == Record.load(file, layers=some[::-1])
    assert Record.load(file, steps=(3, 17)) == whole.between(3, 17)
    part = Record.load(file, layers=['0.0', '*.0'], steps=(14, 14))
    assert part == whole[some].between(14, 14) and len(part) and (part.hist == whole[some].between(14, 14).hist).all()
    for wrong, why in ((dict(layers='conv*'), "layer 'conv\\*' is not among the 9 recorded: 0.0, 0.1"),
                       (dict(layers=['0.0', 'x']), "layer 'x' is not among"),
                       (dict(steps=(500, 600)), 'no step from 500 to 600')):
        with pytest.raises(ValueError, match=f'run.npz.*was not loaded: .*{why}'): Record.load(file, **wrong)
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as z: at = z.getinfo('near_zero.npy').header_offset
    data[at + 120] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match='was not loaded'): Record.load(file, layers='0.0', steps=(0, 0))

PEAK = """import resource, sys
from fastai_actstats.core.record import Record
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rec = Record.load(sys.argv[1], layers=['7', '11'])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)//1024, len(rec), *rec.layers, int(rec.count.sum()))
"""

@pytest.mark.slow
def test_a_part_of_a_large_file_takes_little_memory(tmp_path):
    "Of 300 MiB, two layers of forty: some 15 MiB, and what is read at a time"
    T, L, bins = 1000, 40, Bins(1000)
    rows = empty(T, L, bins=bins)
    rows[..., COUNT], rows[..., COUNTS.start + 7] = 5, 5
    for part in (MEAN, MIN, MAX): rows[..., part] = -9.9
    rec = Record(rows, as_columns([(t, t, 0, 0, 0, 0, False, 1) for t in range(T)]), list(map(str, range(L))), bins)
    file = rec.save(tmp_path/'large.npz')
    with zipfile.ZipFile(file) as z: assert sum(m.file_size for m in z.infolist()) > 300*2**20
    done = subprocess.run([sys.executable, '-c', PEAK, file], capture_output=True, text=True, check=True)
    took, *said = done.stdout.split()
    assert said == ['1000', '7', '11', '10000'] and int(took) < 75, done.stdout
