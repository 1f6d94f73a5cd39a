"""The shell command `actstats`: every verb on good, damaged, foreign and empty files, for people and machines."""
import json
import re
import shlex
import subprocess
import sys
import zipfile

import jsonschema
import numpy as np
import pandas as pd
import pytest
from damage import npy, rezip
from helpers import ROOT, findings, make_record
from PIL import Image

from fastai_actstats import __version__, cli
from fastai_actstats.all import Record

SCHEMA = json.loads((ROOT/'docs'/'actstats.schema.json').read_text())
VERBS = tuple(cli.VERBS)
DRAWS = 'show', 'page', 'compare'

@pytest.fixture(scope='module')
def recorded(): return Record.load(ROOT/'tests'/'records'/'activations-0.0.1.npz')

@pytest.fixture
def folder(tmp_path, monkeypatch, recorded):
    "Records of two runs, and of one of them a second kind"
    recorded.replace(made=dict(run='a')).save(tmp_path/'run.npz')
    recorded.replace(made=dict(run='a'), what='gradients').save(tmp_path/'run.grad_stats.npz')
    recorded.replace(made=dict(run='b'), rows=recorded.rows.flip(0)).save(tmp_path/'plain.npz')
    recorded[['0.0', '4.0']].between(0, 2).save(tmp_path/'quiet.npz')  # before anything went wrong
    monkeypatch.chdir(tmp_path)
    return tmp_path

@pytest.fixture
def run(capsys):
    "Run `actstats` here: exit status, stdout, stderr"
    def run(*args):
        try: status = cli.main(list(map(str, args)))
        except SystemExit as e: status = e.code
        return status, *capsys.readouterr()
    return run

def told(run, *args):
    "Its JSON, which is what the schema says"
    status, out, err = run(*args, '--json')
    said = json.loads(out, parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))
    jsonschema.validate(said, SCHEMA)
    assert said['status'] == status and said['verb'] == args[0] and said['actstats'] == __version__
    return said, err

# what it says

def test_info_says_what_a_file_holds(folder, run, recorded):
    said, err = told(run, 'info', 'run.npz', 'plain.npz')
    one = said['files'][0]
    assert said['status'] == 0 and not err and [f['file'] for f in said['files']] == ['run.npz', 'plain.npz']
    assert [n['name'] for n in one['layers']] == recorded.layers and one['columns'] == len(recorded)
    assert one['steps'] == [recorded.steps.min(), recorded.steps.max()] and one['notes'] == recorded.notes
    assert one['bins']['n'] == recorded.bins.n and one['size'] == (folder/'run.npz').stat().st_size
    status, out, err = run('info', 'run.npz')
    assert status == 0 and not err and f"run.npz: activations of {len(recorded.layers)} layers" in out
    assert all(re.search(rf'^  {re.escape(n)} +Conv2d \[', out, re.M) for n in recorded.layers)

def test_info_reads_no_value(folder, run):
    data = (folder/'run.npz').read_bytes()
    def spoil(members): members['counts.npy'] = members['counts.npy'][:200]
    (folder/'run.npz').write_bytes(rezip(data, spoil))
    assert run('info', 'run.npz')[0] == 0 and run('report', 'run.npz')[0] == 2

def test_report_is_that_of_the_record(folder, run, recorded):
    said, err = told(run, 'report', 'run.npz')
    rows, due = said['reports'][0]['findings'], recorded.report()
    assert said['status'] == 1 and not err and [(f['layer'], f['finding'], f['since']) for f in rows] == findings(due)
    status, out, _ = run('report', 'run.npz')
    assert status == 1 and out == repr(due) + '\n'
    said, _ = told(run, 'report', 'run.npz', '--layers', '1.*, 2.0', '--steps', '0:20')
    due = recorded[['1.0', '2.0']].between(0, 20).report()
    assert [(f['layer'], f['finding'], f['since']) for f in said['reports'][0]['findings']] == findings(due)

def test_exit_status_says_the_outcome(folder, run):
    assert run('report', 'quiet.npz')[0] == 0 and run('report', 'run.npz')[0] == 1
    status, out, err = run('report', 'quiet.npz', 'none.npz')
    assert status == 2 and 'Nothing found.' in out and err == 'actstats report: none.npz: No such file or directory\n'
    assert run('report', 'run.npz', 'none.npz')[0] == 2

def test_files_of_one_run_are_judged_together(folder, run):
    said, _ = told(run, 'report', 'run.npz', 'plain.npz', 'run.grad_stats.npz')
    assert [r['files'] for r in said['reports']] == [['run.npz', 'run.grad_stats.npz'], ['plain.npz']]

def test_compare_measures_against_the_first(folder, run, recorded):
    said, _ = told(run, 'compare', 'run.npz', 'plain.npz')
    from fastai_actstats.all import compare
    due = compare(run=recorded, plain=Record.load('plain.npz')).table()
    seen = pd.DataFrame(said['table'])
    assert seen.columns.tolist() == due.columns.tolist() and seen.run.tolist() == due.run.tolist()
    np.testing.assert_allclose(seen['distance last'].astype(float), due['distance last'])
    assert [f['run'] for f in said['files']] == ['run', 'plain'] and seen['distance first'].max() > .1
    assert run('compare', 'run.npz')[0] == 2 and '1 run to compare' in run('compare', 'run.npz')[2]

def test_export_is_the_tidy_table(folder, run, recorded):
    for to, read in (('a.csv', pd.read_csv), ('a.json', pd.read_json), ('a.parquet', pd.read_parquet)):
        assert run('export', 'run.npz', '--layers', '0.0', '-o', to)[:2] == (0, f'{to}\n')
        seen, due = read(folder/to), recorded['0.0'].to_df()
        assert len(seen) == len(due) and seen.columns.tolist() == due.columns.tolist()
        np.testing.assert_allclose(seen['mean'], due['mean'])
        assert seen['count'].tolist() == due['count'].tolist()
    assert run('export', 'run.npz')[1] == recorded.to_df().to_csv(index=False)
    said, _ = told(run, 'export', 'run.npz', '--steps', ':9')
    assert len(said['files'][0]['rows']) == len(recorded.between(0, 9).to_df())

@pytest.mark.slow
def test_pictures_by_their_ending(folder, run):
    said, _ = told(run, 'show', 'run.npz', '--layers', '0.0,1.0')
    assert said['files'] == [dict(file='run.npz', written='run.png')]
    with Image.open('run.png') as image: assert image.width > 400 and len(image.getcolors(2**24)) > 100
    assert run('show', 'run.npz', '--picture', 'plot_stats', '-o', 'deep/er.SVG')[0] == 0
    assert (folder/'deep'/'er.SVG').read_text().lstrip().startswith('<?xml')
    both = run('show', 'run.npz', 'plain.npz', '--picture', 'heatmap', '-o', 'both')
    assert both[1] == 'both/run.png\nboth/plain.png\n'
    assert run('compare', 'run.npz', 'plain.npz', '--picture', 'difference', '-o', 'far.pdf')[:2] == (0, 'far.pdf\n')
    assert (folder/'far.pdf').read_bytes().startswith(b'%PDF')
    assert not list(folder.rglob('.*'))

# what is wrong

def wrong_files(folder, rec):
    "File → what is said of it"
    data = (folder/'run.npz').read_bytes()
    with zipfile.ZipFile(folder/'other.npz', 'w') as z: z.writestr('x.npy', npy(np.arange(3)))
    def swap(members): members['near_zero.npy'] = npy(np.zeros((3, 2), '<i8'))
    for name, content in (('cut.npz', data[:len(data)//2]), ('zero.npz', b''), ('text.npz', b'hello\n'*99),
                          ('swapped.npz', rezip(data, swap)), ('turned.npz', data[:900] + b'\0'*40 + data[940:])):
        (folder/name).write_bytes(content)
    (folder/'folder.npz').mkdir()
    refused, damaged = 'was not loaded: it', 'was not loaded: it is damaged, or no record'
    return {'cut.npz': damaged, 'zero.npz': damaged, 'text.npz': damaged, 'other.npz': refused + ' is not a record',
            'swapped.npz': refused, 'turned.npz': refused, 'folder.npz': 'Is a directory',
            'none.npz': 'No such file', '<script>.npz': 'No such file'}

@pytest.mark.parametrize('verb', VERBS)
def test_what_cannot_be_read_is_said_in_a_sentence(verb, folder, run, recorded):
    before = set(folder.iterdir())
    due = wrong_files(folder, recorded)
    made = set(folder.iterdir()) - before
    if verb == 'info':  # what it does not read it does not miss
        for name in ('swapped.npz', 'turned.npz'): due.pop(name)
    files = [*due, 'run.npz'] if verb == 'compare' else list(due)
    status, out, err = run(verb, *files)
    assert status == 2 and not out and 'Traceback' not in err
    for line, (file, why) in zip(err.splitlines(), due.items(), strict=True):
        assert line.startswith(f'actstats {verb}: ') and file in line and why in line, line
    said, _ = told(run, verb, *files)
    assert {f['file']: 'error' in f for f in said['files']} == {file: True for file in due}
    assert set(folder.iterdir()) - before == made  # nothing is written

@pytest.mark.parametrize('verb', [v for v in VERBS if v not in DRAWS])
def test_the_others_are_gone_on_with(verb, folder, run):
    said, err = told(run, verb, 'none.npz', 'quiet.npz')
    assert said['status'] == 2 and len(err.splitlines()) == 1
    assert {f['file']: 'error' in f for f in said['files']} == {'none.npz': True, 'quiet.npz': False}

@pytest.mark.parametrize('verb', VERBS)
def test_records_of_nothing(verb, folder, run):
    empty = make_record().part(slice(0, 0))
    empty.save('empty.npz')
    make_record().part(layers=[]).save('none.npz')
    for file in ('empty.npz', 'none.npz'):
        files = (file, 'run.npz') if verb == 'compare' else (file,)
        status, out, err = run(verb, *files)
        if verb in DRAWS: assert status == 2 and not out and len(err.splitlines()) == 1, (out, err)
        else: assert status == 0 and out and not err, (out, err)
        told(run, verb, *files)

WRONG = {('report', 'run.npz', '--layers', 'conv*'): "layer 'conv*' is not among the 5 recorded: 0.0, 1.0",
         ('report', 'run.npz', '--steps', '900:'): 'it holds other steps: no step from 900',
         ('report', 'run.npz', '--steps', 'x:9'): '--steps x:9 must be A:B',
         ('report', 'run.npz', '--steps', '9:3'): '--steps 9:3 ends before it begins',
         ('show', 'run.npz', '-o', 'a.txt'): '-o a.txt must end in .png, .svg, .pdf, .html',
         ('show', 'run.npz', 'plain.npz', '-o', 'a.png'): '2 files would all be written to a.png: -o names a folder',
         ('show', 'run.npz', '-o', '/proc/none/a.png'): '/proc/none',
         ('export', 'run.npz', '-o', 'a.xls'): '-o a.xls must end in .csv, .parquet, .json',
         ('compare', 'run.npz', 'run.grad_stats.npz'): 'activations and gradients are not compared',
         ('compare', 'run.npz', 'plain.npz', '-o', 'a'): '-o a must end in'}

@pytest.mark.parametrize('args', WRONG, ids=' '.join)
def test_wrong_arguments(args, folder, run):
    before = set(folder.iterdir())
    status, out, err = run(*args)
    assert status == 2 and not out and err.count('\n') == 1 and WRONG[args] in err, err
    said, _ = told(run, *args)
    assert said['status'] == 2 and set(folder.iterdir()) == before

@pytest.mark.parametrize('args', ['', 'report', 'report run.npz --nothing', 'bad run.npz', 'show run.npz --picture x'])
def test_wrong_calls(args, folder, run):
    status, out, err = run(*args.split())
    if not args: assert status == 0 and out == cli.MANUAL
    else: assert status == 2 and not out and err

def test_names_that_do_harm_elsewhere(folder, run):
    name = '<script>alert(1)</script>\u202e"\'' + 'x'*300
    rec = make_record(1)
    rec.replace(layers=[name], info={}, notes=dict(x=name)).save('odd.npz')
    for verb in ('info', 'report', 'export'):
        said, _ = told(run, verb, 'odd.npz')
        if verb == 'info': assert said['files'][0]['layers'][0]['name'] == name == said['files'][0]['notes']['x']
    assert told(run, 'report', 'odd.npz', '--layers', '<script>*')[0]['status'] == 0

# how it is called

def test_the_manual_names_every_verb_and_option(run):
    status, out, _ = run('--help')
    listed = re.findall(r'^    (\w+)  +\w', out[out.index('\nVERBS'):out.index('\nOPTIONS')], re.M)
    assert status == 0 and listed == [*VERBS, 'demo']
    for verb in VERBS:
        status, own, _ = run(verb, '--help')
        options = set(re.findall(r'--\w+', own)) - {'--help', '--picture'}
        assert status == 0 and all(o in out for o in options), options
        assert verb != 'report' or options == {'--layers', '--steps', '--json'}
    assert run('--version')[1] == f'actstats {__version__}\n'

EXAMPLES = re.findall(r'^    actstats (.*)$', cli.MANUAL[cli.MANUAL.index('EXAMPLES'):], re.M)

@pytest.mark.slow
def test_the_examples_of_the_manual_run(folder, run):
    assert len(EXAMPLES) > 5
    for example in EXAMPLES:
        status, out, err = run(*shlex.split(example))
        assert status == int(example.startswith('report')) and out and not err, (example, err)
        to = re.search(r'-o (\S+)', example)
        assert not to or (folder/to[1]).stat().st_size > 1000

def process(*args, **kwargs):
    return subprocess.run([sys.executable, '-W', 'error', *args], capture_output=True, text=True, **kwargs)

LOADED = """import io, sys
from contextlib import redirect_stdout
from fastai_actstats import cli
for args in sys.argv[1:]:
    with redirect_stdout(io.StringIO()): cli.main(args.split())
    print(args, '->', *sorted(set(sys.modules) & set(%r)))"""
HEAVY = ('torch', 'fastai', 'matplotlib', 'seaborn', 'scipy', 'numba', 'triton', 'sympy', 'torch._dynamo',
         'torch._inductor', 'pandas', 'numpy')
DUE = {'--help': '', 'info run.npz': 'numpy', 'report run.npz': 'numpy pandas torch',
       'export run.npz': 'numpy pandas torch', 'compare run.npz plain.npz': 'numpy pandas torch',
       'show run.npz': 'matplotlib numpy pandas torch'}  # in this order: a process keeps what it has loaded

@pytest.mark.slow
def test_it_loads_what_it_needs(folder):
    done = process('-c', LOADED % (HEAVY,), *DUE, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f'{args} -> {due}'.rstrip() for args, due in DUE.items()]

@pytest.mark.slow
def test_as_a_process(folder):
    done = process('-m', 'fastai_actstats.cli', 'report', 'run.npz', 'none.npz', cwd=folder)
    assert done.returncode == 2 and 'dead' in done.stdout
    assert done.stderr == 'actstats report: none.npz: No such file or directory\n'
    piped = f'{shlex.quote(sys.executable)} -m fastai_actstats.cli export run.npz'
    done = subprocess.run(['bash', '-c', f'{piped} | head -1; echo ${{PIPESTATUS[0]}}'], capture_output=True, text=True,
                          cwd=folder)
    assert done.stdout.startswith('step,last_step,epoch') and not done.stderr, done.stderr
    for files in (['page', 'run.npz'], ['compare', 'run.npz', 'plain.npz']):  # nothing else has loaded what makes pages
        done = process('-m', 'fastai_actstats.cli', *files, '-o', f'{files[0]}.html', cwd=folder)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert '</html>' in (folder/f'{files[0]}.html').read_text()

def test_many_runs_have_a_row_a_run_and_layer_too(folder, run):
    for i in range(8): (folder/f'{i}.npz').write_bytes((folder/'run.npz').read_bytes())
    said, _ = told(run, 'compare', *[f'{i}.npz' for i in range(8)])
    assert {'layer', 'std last'} <= said['table'][0].keys() and len({row['run'] for row in said['table']}) == 8

def test_the_demo_is_a_verb_too(run):
    status, out, _ = run('demo', '--help')
    assert status == 0 and 'with and without batchnorm' in out

def test_it_is_installed_under_its_name():
    assert '[project.scripts]\nactstats = "fastai_actstats.cli:main"\n' in (ROOT/'pyproject.toml').read_text()
