"""The main job, as the command line runs it."""
import inspect
import subprocess
import sys

import pandas as pd
import pytest
from helpers import ROOT

from fastai_actstats import demo


def run(*args, cwd):
    return subprocess.run([sys.executable, '-m', 'fastai_actstats', *args], cwd=cwd, capture_output=True, text=True,
                          timeout=300)

@pytest.mark.slow
def test_it_writes_pictures_and_a_table(tmp_path):
    done = run('--epochs', '1', '--out', 'here', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {f.name for f in (tmp_path/'here').iterdir()}
    assert {'color_dim.png', 'batchnorm_layers.png', 'plain_layers.png', 'batchnorm_stats.png', 'plain_stats.png',
            'stats.csv'} <= names
    table = pd.read_csv(tmp_path/'here'/'stats.csv')
    assert set(table.run) == {'batchnorm', 'plain'} and len(table) == 9 + 5

@pytest.mark.slow
def test_bad_options_are_refused_in_a_sentence(tmp_path):
    done = run('--layers', 'conv*', '--epochs', '1', cwd=tmp_path)
    assert done.returncode == 2 and "layers='conv*' matches none of the" in done.stderr
    assert 'Traceback' not in done.stderr
    done = run('--epochs', '0', cwd=tmp_path)
    assert done.returncode == 2 and '--epochs 0' in done.stderr

def test_its_defaults_are_those_of_settings_ini(settings):
    train, digits, cnn = (dict((k, p.default) for k, p in inspect.signature(f).parameters.items())
                          for f in (demo.train, demo.digits, demo.reference_cnn))
    assert (train['epochs'], train['lr'], train['seed']) == (settings.epochs, settings.lr, settings.seed)
    assert (digits['seed'], digits['batch_size'], digits['valid_pct']) == (settings.seed, settings.batch_size,
                                                                           settings.valid_pct)
    assert (cnn['channels'], cnn['kernels']) == (settings.channels, settings.kernels)

def test_the_installed_package_does_not_read_the_settings():
    assert not [f for f in (ROOT/'fastai_actstats').rglob('*.py') if 'settings.ini' in f.read_text()]
