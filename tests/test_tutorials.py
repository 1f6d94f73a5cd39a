"""Tutorials can be copied: they run where the package was installed from its wheel and nothing of the repository is."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT

TUTORIALS = sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb'))

def codes(notebook):
    cells = json.loads(notebook.read_text())['cells']
    return [''.join(cell['source']) for cell in cells if cell['cell_type'] == 'code']

@pytest.mark.parametrize('notebook', TUTORIALS, ids=lambda f: f.stem)
def test_they_install_what_they_need_on_colab_and_take_nothing_from_the_repository(notebook, settings):
    first, *others = codes(notebook)
    assert first.endswith("if 'google.colab' in sys.modules:  # there it is to be installed first\n"
                          "    %pip install -q 'fastai_actstats[demo]'")
    text = '\n'.join(others)
    assert not [word for word in ('settings.ini', '../', 'ConfigParser', 'tests/') if word in text]
    if 'seed, lr = ' in text: assert f'seed, lr = {settings.seed}, 6e-2' in text and settings.lr == 6e-2

def run(*args, **kwargs):
    done = subprocess.run(args, capture_output=True, text=True, timeout=600, **kwargs)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done

@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    "A folder with nothing in it but what the wheel holds"
    source, target = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('installed')
    shutil.copytree(ROOT/'fastai_actstats', source/'fastai_actstats', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE'): shutil.copy(ROOT/name, source)
    pip = sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check', '--no-cache-dir'
    run(*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', target, source)
    wheel, = target.glob('*.whl')
    run(*pip, 'install', '--no-deps', '--target', target, wheel)
    return target

@pytest.mark.slow
@pytest.mark.parametrize('name', ['quick_start', 'look_inside'])
def test_they_run_from_the_wheel_in_an_empty_folder(installed, name, tmp_path):
    notebook = json.loads((ROOT/'nbs'/'tutorials'/f'{name}.ipynb').read_text())
    last = "import fastai_actstats\nwith open('done', 'w') as f: f.write(fastai_actstats.__file__)"
    last = dict(cell_type='code', id='last', execution_count=None, metadata={}, outputs=[], source=last)
    notebook['cells'].append(last)
    (tmp_path/'copied.ipynb').write_text(json.dumps(notebook))
    run(sys.executable, '-m', 'IPython', '--no-banner', '--colors=NoColor', 'copied.ipynb', cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(installed), MPLBACKEND='agg', IPYTHONDIR=str(tmp_path/'ipython')))
    assert (tmp_path/'done').read_text() == str(installed/'fastai_actstats'/'__init__.py')
