"""Build the documentation site from README, notebooks and docstrings: `python docs/build.py [FOLDER]`.

Without a FOLDER it goes to `_site`. Takes the extra `docs`. The site needs no network: its search, letters and pictures
are in the folder. Pages open as files too; search wants a server, for which `python -m http.server -d _site` will do. A
broken link, a missing picture or a public name without a page ends the build with an error."""
import base64
import importlib
import inspect
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from fastcore.docments import docments

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {'kernels': "a tensor's values become a row", 'core': 'rows are kept, merged and read',
           'analysis': 'a record is judged', 'plots': 'a record becomes a picture', 'callbacks': 'a learner is watched',
           'callbacks.checks': 'what is looked at before the first epoch',
           'features': 'a trained network is looked into', '': 'beside the folders'}  # in the order of their imports
FIRST = ('quick_start', 'batchnorm_against_none', 'reading_the_colourful_dimension', 'from_fastai_actstats',
         'model_of_your_own')

FEATURES = ['navigation.tabs', 'navigation.top', 'toc.follow', 'search.highlight']
EXTENSIONS = ['attr_list', 'tables', 'md_in_html', {'toc': {'permalink': True}}, 'pymdownx.highlight',
              'pymdownx.superfences']

# notebooks

def place(file):
    "Where the page of a notebook lies in the site"
    path = file.relative_to(ROOT/'nbs').with_suffix('.md')
    return path if path.parts[0] == 'tutorials' else Path('notebooks')/path

def module_of(file):
    "'core.ring' for nbs/core/03_ring.ipynb"
    return '.'.join([*file.relative_to(ROOT/'nbs').parts[:-1], re.sub(r'^\d+_', '', file.stem)])

def link(file, target):
    "What a link of a notebook to another one is in the site"
    there = (file.parent/target).resolve()
    return Path(os.path.relpath(place(there), place(file).parent)).as_posix()

def notebook_page(file, folder):
    "A notebook as markdown; its pictures are written to `folder`"
    parts = []
    def linked(m): return f"]({link(file, m[1])}{m[2] or ''})"
    for cell in json.loads(file.read_text())['cells']:
        source = ''.join(cell['source'])
        shown = '\n'.join(line for line in source.splitlines() if not line.startswith('#|')).strip('\n')
        if '#| hide' in source or not shown: continue
        if cell['cell_type'] == 'markdown':
            parts.append(re.sub(r'\]\(([\w./]+\.ipynb)(#[\w-]*)?\)', linked, shown))
            continue
        parts.append(f'```python\n{shown}\n```')
        parts += [output(o, f"{file.stem}-{cell['id']}-{i}.png", folder) for i, o in enumerate(cell['outputs'])]
    return '\n\n'.join(parts) + '\n'

def output(o, name, folder):
    data = o.get('data', {})
    text = lambda value: value if isinstance(value, str) else ''.join(value)
    if 'image/png' in data:
        folder.mkdir(parents=True, exist_ok=True)
        (folder/name).write_bytes(base64.b64decode(text(data['image/png'])))
        return f"![Picture drawn by the code above]({folder.name}/{name})"
    if 'text/html' in data:
        table = re.sub(r'<style.*?</style>', '', text(data['text/html']), flags=re.S)
        return '<div class="output">\n' + re.sub(r'\n\s*\n', '\n', table) + '\n</div>'
    shown = text(o.get('text', data.get('text/plain', ''))).rstrip()
    return f'```text\n{shown}\n```' if shown else ''

# docstrings

EVENT = re.compile('(before|after)_')  # fastai calls these methods of a callback, users do not

def folder_of(name): return name.rpartition('.')[0]

def all_modules(notebooks):
    "Name → module, folder by folder, in reading order"
    root = ROOT/'fastai_actstats'
    names = ['.'.join(f.relative_to(root).with_suffix('').parts) for f in root.rglob('*.py')]
    names = [n for n in names if n.split('.')[-1] not in ('__init__', '__main__', '_modidx', 'all')]
    order = list(FOLDERS)
    def key(n): return order.index(folder_of(n)), str(notebooks.get(n, n)), n
    return {n: importlib.import_module(f'fastai_actstats.{n}') for n in sorted(names, key=key)}

def public_names(modules):
    "Public name → the module that makes it"
    everything = importlib.import_module('fastai_actstats.all')
    def makes(module, n): return n in module.__all__ and getattr(module, n) is getattr(everything, n)
    where = {}
    for n in everything.__all__:
        own = getattr(getattr(everything, n), '__module__', '').removeprefix('fastai_actstats.')
        candidates = [m for m, module in modules.items() if makes(module, n)]
        if candidates: where[n] = own if own in candidates else candidates[0]
    lost = set(everything.__all__) - set(where)
    if lost: raise SystemExit(f"public names without a page: {', '.join(sorted(lost))}")
    return where

def grouped(names, page):
    "Pages by folder, for the navigation"
    groups = {}
    for n in names: groups.setdefault(folder_of(n), []).append({n.rpartition('.')[2]: page(n)})
    return [{f'{folder}: {FOLDERS[folder]}' if folder else FOLDERS[folder]: pages} for folder, pages in groups.items()]

def code(text): return f"`{str(text).replace('|', chr(92) + '|')}`" if str(text) else ''

def parameters(obj):
    "Parameters and their meaning as a table, from the comments beside them"
    try: signature, said = inspect.signature(obj), docments(obj, full=True)
    except (TypeError, ValueError): return ''
    rows = []
    for name, p in signature.parameters.items():
        if name in ('self', 'cls'): continue
        star = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        kind = '' if p.annotation is p.empty else p.annotation
        if not isinstance(kind, str): kind = getattr(kind, '__name__', kind)
        default = '' if p.default is p.empty else repr(p.default)
        meaning = (said.get(name) or {}).get('docment') or ''
        rows.append(f"| `{star}{name}` | {code(kind)} | {code(default[:60])} | {cell(meaning)} |")
    returns = said.get('return') or {}
    meaning = returns.get('docment') or ''
    if meaning:
        kind = signature.return_annotation if isinstance(signature.return_annotation, str) else ''
        rows.append(f"| *returns* | {code(kind)} | | {cell(meaning)} |")
    head = '| parameter | type | default | meaning |\n|---|---|---|---|\n'
    return head + '\n'.join(rows) + '\n' if rows else ''

def cell(text): return ' '.join(str(text).split()).replace('|', '\\|')

def call(name, obj):
    try: names = [p for p in inspect.signature(obj).parameters.values() if p.name not in ('self', 'cls')]
    except (TypeError, ValueError): return name
    text, keyword = [], False
    for p in names:
        if p.kind is p.KEYWORD_ONLY and not keyword: text.append('*'); keyword = True
        keyword = keyword or p.kind is p.VAR_POSITIONAL
        text.append({p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '') + p.name)
    return f"{name}({', '.join(text)})"

def doc(obj): return inspect.cleandoc(obj.__doc__ or '').replace('<', '&lt;') if isinstance(obj.__doc__, str) else ''

def member(owner, name, raw):
    "A method or property of a class"
    if isinstance(raw, property):
        remark = re.findall(r'#\s*(.*)', inspect.getsource(raw.fget))
        return f"### `{owner}.{name}`\n\n" + (doc(raw) or cell('; '.join(remark)) or 'Property.') + '\n'
    f = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
    return f"### `{call(f'{owner}.{name}', f)}`\n\n{doc(f)}\n\n{parameters(f)}"

def entry(name, obj):
    "A public name of a module"
    if inspect.isclass(obj):
        parts = [f"## `{call(name, obj)}` {{#{name}}}", doc(obj), parameters(obj)]
        for attr, raw in vars(obj).items():
            raw_function = (inspect.isfunction(raw) or isinstance(raw, (classmethod, staticmethod, property))
                            or hasattr(raw, 'func'))
            if attr.startswith('_') or EVENT.match(attr) and not doc(raw): continue
            if raw_function:
                parts.append(member(name, attr, property(raw.func) if hasattr(raw, 'func')
                                    and not inspect.isfunction(raw) else raw))
        return '\n\n'.join(parts)
    if callable(obj): return f"## `{call(name, obj)}` {{#{name}}}\n\n{doc(obj)}\n\n{parameters(obj)}"
    return f"## `{name}` {{#{name}}}\n\n`{cell(repr(obj))[:300]}`"

def reference_page(name, module, notebooks):
    names = [n for n in module.__all__ if hasattr(module, n)]
    story = (f"\n\n*[The notebook that this module comes from](../{notebooks[name]})*"
             if name in notebooks else '')
    return '\n\n'.join([f"# fastai_actstats.{name}", inspect.cleandoc(module.__doc__ or '') + story,
                        *(entry(n, getattr(module, n)) for n in names)]) + '\n'

# the site

def home():
    text = (ROOT/'README.md').read_text().replace('docs/images/', 'images/')
    text = re.sub(r'\]\(nbs/tutorials/(\w+)\.ipynb\)', r'](tutorials/\1.md)', text)
    # files of the repository that the site has not
    return re.sub(r'\[([^\]]*)\]\((?!https?:|images/|tutorials/|docs/\w+\.md|#)[^)]*\)', r'\1', text)

def write_pages(pages):
    "All pages as markdown in the folder `pages`; returns mkdocs' navigation"
    (pages/'reference').mkdir(parents=True)
    if (ROOT/'docs'/'images').exists(): shutil.copytree(ROOT/'docs'/'images', pages/'images')
    shutil.copy(ROOT/'docs'/'extra.css', pages)
    articles = sorted((ROOT/'docs').glob('*.md'))
    if articles: (pages/'docs').mkdir()
    for f in articles: (pages/'docs'/f.name).write_text(f.read_text().replace('](images/', '](../images/'))
    (pages/'index.md').write_text(home())
    written = [f.stem for f in (ROOT/'nbs'/'tutorials').glob('*.ipynb')]
    tutorials = [*FIRST, *sorted(set(written) - set(FIRST))]
    files = [f for f in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in f.parts]
    for f in files:
        page = pages/place(f)
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(notebook_page(f, page.parent/'pictures'))
    notebooks = {module_of(f): place(f).as_posix() for f in files if f.parent.name != 'tutorials'}
    modules = all_modules(notebooks)
    where = public_names(modules)
    for name, module in modules.items():
        (pages/'reference'/f'{name}.md').write_text(reference_page(name, module, notebooks))
    (pages/'reference'/'index.md').write_text(index_page(where))
    def reference(name): return f'reference/{name}.md'
    public, inside = [n for n in modules if n in where.values()], [n for n in modules if n not in where.values()]
    stories = sorted(notebooks, key=lambda n: (list(FOLDERS).index(folder_of(n)), notebooks[n]))
    return [{'Home': 'index.md'}, {'Tutorials': [f'tutorials/{n}.md' for n in tutorials]},
            {'Reference': ['reference/index.md', *grouped(public, reference)]},
            {'Inside': grouped(inside, reference)}, {'Notebooks': grouped(stories, notebooks.get)},
            *([{'More': [f'docs/{f.name}' for f in articles]}] if articles else [])]

def index_page(where):
    "The public names, each with its module"
    everything = importlib.import_module('fastai_actstats.all')
    lines = ['# Public names', '', 'What `from fastai_actstats.all import *` brings.', '',
             '| name | what it is |', '|---|---|']
    for n, m in sorted(where.items(), key=lambda o: o[0].lower()):
        lines.append(f"| [`{n}`]({m}.md#{n}) | {cell(doc(getattr(everything, n)).split(chr(10))[0])} |")
    return '\n'.join(lines) + '\n'

def build(out=ROOT/'_site'):
    "Write the site to the folder `out`; any warning of mkdocs is an error"
    from mkdocs.commands.build import build as mkdocs_build
    from mkdocs.config import load_config
    logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(message)s')
    with tempfile.TemporaryDirectory() as temp:
        pages = Path(temp)/'pages'
        nav = write_pages(pages)
        empty = Path(temp)/'mkdocs.yml'
        empty.write_text('site_name: fastai_actstats\n')
        checks = dict(nav=dict(omitted_files='warn', not_found='warn'),
                      links=dict(not_found='warn', anchors='warn', unrecognized_links='warn'))
        config = load_config(str(empty), docs_dir=str(pages), site_dir=str(out), nav=nav, strict=True,
                             validation=checks, theme=dict(name='material', font=False, features=FEATURES),
                             plugins=['search'], extra_css=['extra.css'],
                             use_directory_urls=False, markdown_extensions=EXTENSIONS)
        config.plugins.run_event('startup', command='build', dirty=False)
        mkdocs_build(config)
        config.plugins.run_event('shutdown')
    return Path(out)

if __name__ == '__main__':
    print(f"written to {build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT/'_site')}/index.html")
