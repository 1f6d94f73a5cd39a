"""The documentation site: `sphinx-build -M html . _site -c docs -W`, with the extra `docs` installed.

It is made of README, the pages in this folder, the notebooks as they are kept (none is run) and the docstrings, and
needs no network: letters, search and pictures are in `_site/html`, whose pages open as files too."""
import inspect
import json
import re
from functools import cached_property

from fastcore.docments import docments

import fastai_actstats
from fastai_actstats import all as everything

PUBLIC = set(everything.__all__)

project = 'fastai_actstats'
version = release = fastai_actstats.__version__
html_title = project

extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.autosummary']
include_patterns = ['index.md', 'README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'docs/**', 'nbs/**']
exclude_patterns = ['**.ipynb_checkpoints', 'docs/_static', 'docs/images', 'docs/conf.py']
root_doc = 'index'

nb_execution_mode = 'off'
nb_merge_streams = True
myst_enable_extensions = ['colon_fence']
myst_heading_anchors = 3

default_role = 'py:obj'  # `name` in a docstring: a link where there is such a name, else just code
add_module_names = False
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # they stand in the table of parameters
autosummary_generate = False
toc_object_entries_show_parents = 'hide'

html_theme = 'pydata_sphinx_theme'
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = dict(
    header_links_before_dropdown=6, show_nav_level=2, navigation_with_keys=False, show_prev_next=True,
    navbar_end=['theme-switcher'], secondary_sidebar_items=['page-toc'], footer_start=[], footer_end=[])
html_sidebars = {'index': []}

# notebooks

def cells_for_readers(app, docname, source):
    "What nbdev hides is left out, and what is for nbdev in the other cells"
    if not docname.startswith('nbs/'): return
    nb = json.loads(source[0])
    for cell in nb['cells']:
        lines = ''.join(cell['source']).splitlines(keepends=True)
        cell['source'] = ''.join(line for line in lines if not line.startswith('#|')).strip('\n')
        if '#| hide\n' in lines or not cell['source']: cell['metadata'] = dict(tags=['remove-cell'])
    first = nb['cells'][0]  # '# core.ring', which may go to the next line after a dot and nowhere else
    first['source'] = re.sub(r'^# [\w.]+$', lambda m: m[0].replace('.', '.\u200b'), first['source'])
    nb['metadata']['language_info'] = dict(name='python', pygments_lexer='ipython3')
    source[0] = json.dumps(nb)

# docstrings

def beside(obj, name):
    "The comment beside what docments does not read: `*args`, `**kwargs`, a field of a tuple, a property in one line"
    source = inspect.getsource(obj.__init__ if inspect.isclass(obj) and not hasattr(obj, '_fields') else obj)
    found = re.search(rf'^ *(?:def )?\**{name}\b.*?#\s*(.*)', source, re.M)
    return found[1] if found else ''

def meanings(obj):
    "Parameter → its type and what stands beside it in the code; what stands beside the return"
    said, res = docments(obj, full=True), {}
    for p in inspect.signature(obj).parameters.values():
        star = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        kind = '' if p.annotation is p.empty else getattr(p.annotation, '__forward_arg__', p.annotation)
        if not isinstance(kind, str): kind = inspect.formatannotation(kind)
        res[star + p.name] = kind, (said.get(p.name) or {}).get('docment') or beside(obj, p.name)
    returns = (said.get('return') or {}).get('docment') or ''
    taken = [meaning for _, meaning in res.values()]  # docments takes what stands beside `**kwargs` for the return's
    return res, '' if returns in taken else returns

def as_rst(text):
    "`code` as in markdown, and links to public names"
    return re.sub(r'(?<!`)`([^`]+)`(?!`)', lambda m: m[0] if m[1] in PUBLIC else f'``{m[1]}``', text)

def field(text): return as_rst(' '.join(text.split()))

def docstring(app, what, name, obj, options, lines):
    "Sphinx reads what docments says as fields of a docstring"
    obj = getattr(obj, 'func', obj.fget if isinstance(obj, property) else obj)
    if what in ('property', 'attribute') and not lines: lines.append(beside(obj, obj.__name__))
    lines[:] = as_rst('\n'.join(lines)).split('\n')
    if what not in ('class', 'function', 'method'): return
    try: said, returns = meanings(obj)
    except (TypeError, ValueError, OSError): return
    lines.append('')
    for name, (kind, meaning) in said.items():
        if not meaning: continue
        name = name.replace('*', r'\*')
        lines.append(f':param {name}: {field(meaning)}')
        if kind: lines.append(f':type {name}: {kind}')
    if returns: lines.append(f':returns: {field(returns)}')

def for_users(app, what, name, obj, skip, options):
    "Properties without a docstring too, but not fastai's events, which users do not call, nor the fields of tuples"
    if name.startswith(('_', 'before_', 'after_')) or type(obj).__name__ == '_tuplegetter': return True
    return False if isinstance(obj, property | cached_property) else None

def setup(app):
    app.connect('source-read', cells_for_readers)
    app.connect('autodoc-process-docstring', docstring)
    app.connect('autodoc-skip-member', for_users)
