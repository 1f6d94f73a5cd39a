"""The fence: which folder of the package may import what. The imports are read, none is run."""
import ast
import shutil
from functools import cache
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = 'fastai_actstats'
BELOW = {'kernels': (), 'core': ('kernels',), 'analysis': ('core', 'kernels'), 'plots': ('core', 'analysis', 'kernels'),
         'callbacks': ('kernels', 'core', 'analysis', 'plots'), 'features': ('kernels', 'core', 'analysis', 'plots')}
# modules beside the folders: they may import everything
TOP = 'all', 'demo', 'cli', 'shell', '__main__', '__init__', '_modidx'
LIBRARIES = {'fastai': ('callbacks', 'features', 'demo', 'cli'),
             'matplotlib': ('plots', 'features', 'demo', 'cli'), 'seaborn': ('plots', 'features', 'demo', 'cli'),
             # how ranks meet, and who asks for it when, are two things
             'torch.distributed': ('callbacks/distributed', 'callbacks/exchange'),
             'triton': ('kernels',), 'numba': ('kernels',)}
PRIVATE = 'callbacks/compat'  # where private names of torch and fastai stand
HOT = {'kernels/dispatch': {'torch._C.DisableTorchFunctionSubclass'},  # a call less for each tensor
       'kernels/cpu': {'torch._C.__file__'}}  # its own OpenMP is found through it: no public name
# protocols of Python and IPython
OURS = {'_repr_html_', '_fields', '_fields_', '_replace', '_asdict', '_all_', '_make'}

parsed = cache(ast.parse)

def modules(root):
    "Place in the package, such as 'core/ring' → syntax tree"
    files = sorted((root/PACKAGE).rglob('*.py'))
    return {str(f.relative_to(root/PACKAGE).with_suffix('')): parsed(f.read_text()) for f in files}

def folder(place): return place.split('/')[0]

def absolute(node, place):
    "The module that a `from ... import` names, dots resolved"
    if not node.level: return node.module
    parts = [PACKAGE, *place.split('/')[:-1]]
    parts = parts[:len(parts) - node.level + 1]
    return '.'.join(parts + ([node.module] if node.module else []))

def imports(tree, place):
    "(what is imported, under which name, line): also inside of functions"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names: yield a.name, a.asname or a.name.split('.')[0], node.lineno
        elif isinstance(node, ast.ImportFrom):
            for a in node.names: yield f'{absolute(node, place)}.{a.name}', a.asname or a.name, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('import_module') and isinstance(
                node.args[0], ast.Constant):
            yield node.args[0].value, '', node.lineno

def within(name, library): return name == library or name.startswith(library + '.')

def allowed(place, folders): return any(place == r or place.startswith(r + '/') for r in folders)

def chain(node, names):
    "'torch._C.x' for an attribute of something imported"
    parts = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return '.'.join([names[node.id], *parts]) if isinstance(node, ast.Name) and node.id in names else None

def hidden(name): return name.startswith('_') and not name.startswith('__')

def own(tree):
    "Private names that the module itself makes: functions, classes, variables, attributes, fields"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store): yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) \
                and node.value.id in ('self', 'cls', 'res'): yield node.attr

def broken(root):
    "Every place where the fence is broken, as a sentence"
    trees, said = modules(root), []
    for place, tree in trees.items():
        here, names, taken = folder(place), {}, []
        for name, local, line in imports(tree, place):
            names[local] = name if local != name.split('.')[0] else local
            at = f'{place}:{line}'
            parts = name.split('.')
            if parts[0] == PACKAGE and len(parts) > 1 and here not in TOP:
                there = parts[1]
                if there != here and there not in BELOW.get(here, ()): said.append(f"{at} imports {name}, above it")
            for library, folders in LIBRARIES.items():
                if within(name, library) and not allowed(place, folders): said.append(f"{at} imports {name}")
            if hidden(parts[-1]) and parts[0] == PACKAGE and parts[-1] != '_modidx' and not place.endswith('__init__'):
                said.append(f"{at} takes {name} of another module")
            if parts[0] in ('torch', 'fastai') and any(map(hidden, parts)): taken.append((name, at))
        private = set(own(tree)) | OURS
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}  # of a longer name
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute): continue
            whole, at = chain(node, names), f'{place}:{node.lineno}'
            if whole and within(whole, 'torch.distributed') and not allowed(place, LIBRARIES['torch.distributed']):
                said.append(f"{at} uses {whole}")
            if whole and whole.split('.')[0] in ('torch', 'fastai'):
                if id(node) not in inner and any(map(hidden, whole.split('.'))): taken.append((whole, at))
            elif hidden(node.attr) and node.attr not in private and place != PRIVATE:
                said.append(f"{at} takes {ast.unparse(node)} of somebody else")
        if place != PRIVATE:
            said += [f"{at} uses {name}, which is private" for name, at in taken if name not in HOT.get(place, ())]
    return list(dict.fromkeys(said))

def test_the_fence_stands():
    assert not broken(ROOT)

def test_every_module_stands_in_a_folder():
    places = [p for p in modules(ROOT) if folder(p) not in BELOW]
    assert set(places) <= set(TOP)

BREAKS = {
    'core/ring': [('import fastai_actstats.analysis.rules', 'above it'),
                  ('def f():\n    from ..plots.axes import step_edges', 'above it'),
                  ('from fastai.basics import Callback', 'imports fastai'),
                  ('import matplotlib.pyplot as plt', 'imports matplotlib'),
                  ('def f():\n    import torch.distributed', 'imports torch.distributed'),
                  ('x = torch.distributed.is_available()', 'uses torch.dist'),
                  ('from .files import _need', 'takes fastai_actstats.core.files._need'),
                  ('x = torch._C._get_default_device()', 'private'),
                  ('def f(o): return o._secret', 'of somebody else')],
    'kernels/eager': [('from ..core.ring import Ring', 'above it'), ('import pandas, fastai', 'imports fastai')],
    'analysis/rules': [('from ..plots import steps', 'above it'), ('import seaborn as sns', 'imports seaborn'),
                       ('from importlib import import_module\nimport_module("fastai_actstats.callbacks.base")',
                        'above it')],
    'plots/steps': [('from ..callbacks.base import StatsCallback', 'above it'),
                    ('from fastai.basics import L', 'imports fastai')],
    'callbacks/base': [('from ..features.run import Look', 'above it'), ('import seaborn', 'imports seaborn'),
                       ('from torch import distributed as dist', 'imports torch.distributed'),
                       ('from torch._dynamo import reset', 'private')],
    'features/run': [('from ..callbacks.hooks import Tap', 'above it'),
                     ('from fastai.torch_core import _patch_tensor', 'private')]}

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    root = tmp_path_factory.mktemp('house')
    shutil.copytree(ROOT/PACKAGE, root/PACKAGE, ignore=shutil.ignore_patterns('__pycache__'))
    return root

@pytest.mark.parametrize('place, line, why', [(p, *b) for p, some in BREAKS.items() for b in some],
                         ids=lambda o: str(o).split('\n')[-1][:40])
def test_it_fails_when_it_is_broken(copy, place, line, why):
    file = Path(copy/PACKAGE/f'{place}.py')
    before = file.read_text()
    try:
        file.write_text(before + f'\n{line}\n')
        assert any(why in s and s.startswith(place + ':') for s in broken(copy)), broken(copy)
    finally: file.write_text(before)
