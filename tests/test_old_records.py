"""Files that earlier versions wrote: one a version, with the table and the picture that that version made of it."""
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.testing.compare import compare_images

from fastai_actstats.all import Record

RECORDS = Path(__file__).parent/'records'
VERSIONS = sorted(f.stem.split('-')[-1] for f in RECORDS.glob('activations-*.npz'))

@pytest.mark.parametrize('version', VERSIONS)
def test_a_record_reads_as_it_did(version, tmp_path):
    rec = Record.load(RECORDS/f'activations-{version}.npz')
    then = pd.read_csv(RECORDS/f'activations-{version}.csv', dtype=dict(layer=str))
    pd.testing.assert_frame_equal(rec.to_df()[list(then)], then, check_dtype=False, rtol=1e-12)
    assert bool(np.isnan(rec.kurtosis).all()) == bool(np.isnan(rec.skew).all()) == (version == '0.0.1')  # it had none
    rec.save(tmp_path/'again.npz')
    assert Record.load(tmp_path/'again.npz') == rec

@pytest.mark.parametrize('version', VERSIONS)
def test_a_record_looks_as_it_did(version, tmp_path):
    with matplotlib.rc_context(matplotlib.rcParamsDefault | {'backend': 'agg'}):
        Record.load(RECORDS/f'activations-{version}.npz').color_dim().savefig(tmp_path/'now.png', dpi=45)
    (tmp_path/'then.png').write_bytes((RECORDS/f'activations-{version}.png').read_bytes())
    wrong = compare_images(str(tmp_path/'then.png'), str(tmp_path/'now.png'), tol=2)
    assert not wrong, wrong
