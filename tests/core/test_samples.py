"""A reservoir is uniform and reproducible; samples come back from their files, and other files are refused."""

import numpy as np
import pytest
import torch
from helpers import make_sample
from scipy.stats import chisquare

from fastai_actstats.core.samples import Reservoir, Sample


def kept(n, total, batch, seed):
    r = Reservoir(n, seed)
    for i in range(0, total, batch):
        values = torch.arange(i, min(i + batch, total))
        r.begin(len(values))
        r.put('x', values)
    index, values = r.read()
    assert np.array_equal(index, values['x'])
    return index.tolist()

def test_every_item_is_as_likely():
    n, total, times = 7, 40, 1500
    counts = np.bincount(np.concatenate([kept(n, total, 9, seed) for seed in range(times)]), minlength=total)
    assert counts.sum() == n*times
    # without replacement the counts vary less than multinomial ones, by (1 - n/total): scaled, they follow chi-square
    scaled = ((counts - n*times/total)**2/(n*times/total)).sum()/(1 - n/total)*(total - 1)/total
    assert chisquare(counts).pvalue > 1e-3 and 15 < scaled < 75  # 39 degrees of freedom

def test_pairs_are_as_likely_too():
    pairs = np.zeros((8, 8), int)
    for seed in range(2000):
        a, b = kept(2, 8, 3, seed)
        pairs[a, b] += 1
    assert chisquare(pairs[np.triu_indices(8, 1)]).pvalue > 1e-3

def test_a_seed_decides_whatever_the_batch_size():
    assert kept(10, 200, 200, 5) == kept(10, 200, 7, 5) == kept(10, 200, 1, 5) != kept(10, 200, 7, 6)
    assert kept(10, 6, 4, 0) == list(range(6)) and kept(10, 10, 4, 0) == list(range(10))
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match='must be a whole number of items'): Reservoir(n)

# files

@pytest.fixture
def sample(): return make_sample()

def same(a, b):
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ('index', 'epoch', 'target', 'prediction'))
    return arrays and a.info == b.info and a.layers == b.layers and all(np.array_equal(a.acts[k], b.acts[k])
                                                                        for k in a.acts)

def test_saved_and_loaded(sample, tmp_path):
    sample.save(tmp_path/'s.npz')
    assert same(Sample.load(tmp_path/'s.npz'), sample)
    bare = Sample(sample.acts, sample.index)
    bare.save(tmp_path/'s.npz')
    assert Sample.load(tmp_path/'s.npz').target is None and [f.name for f in tmp_path.iterdir()] == ['s.npz']

def test_an_interrupted_save_leaves_the_old_file(sample, tmp_path, monkeypatch):
    sample.save(tmp_path/'s.npz')
    def full(f, arrays):
        f.write(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('fastai_actstats.core.samples.write_arrays', full)
    with pytest.raises(OSError, match='No space'): sample[:5].save(tmp_path/'s.npz')
    assert same(Sample.load(tmp_path/'s.npz'), sample) and [f.name for f in tmp_path.iterdir()] == ['s.npz']

def test_other_files_are_refused(sample, tmp_path):
    path = tmp_path/'s.npz'
    sample.save(path)
    whole = path.read_bytes()
    def arrays(**kw): np.savez(path, **(dict(np.load(path)) | kw))
    for spoil in [lambda: path.write_bytes(whole[:len(whole)//2]), lambda: path.write_bytes(b'text'),
                  lambda: np.savez(path, x=1), lambda: arrays(target=np.array([{}, []], object)),
                  lambda: arrays(meta='{"kind": "other", "version": 1}'), lambda: arrays(index=np.arange(3)),
                  lambda: arrays(act0=np.zeros(80))]:
        path.write_bytes(whole)
        spoil()
        with pytest.raises(ValueError, match='is not a saved Sample') as e: Sample.load(path)
        assert len(str(e.value).splitlines()) == 1
    with pytest.raises(FileNotFoundError): Sample.load(tmp_path/'none.npz')
