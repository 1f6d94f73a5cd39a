"""One file to hand to a colleague: what was recorded, to zoom into and to search, in any browser and without a network

`Record.to_html`, `Comparison.to_html` and `Report.to_html` (of `diagnose(learn)`, say) write it. Charts are drawn by
uPlot, which stands in the file; the scripts of the page stand beside this module in `web`. Whatever comes from a record
goes into the page as text: by `tag` here, by `textContent` there."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from functools import cache
from pathlib import Path

import numpy as np
from fastcore.basics import patch
from matplotlib import colormaps

from ..analysis.compare import Comparison
from ..analysis.report import Report
from ..core.disk import atomic
from ..core.files import made
from ..core.markup import Html, tag, together
from ..core.record import STATS, Record
from ..core.tables import described, overview
from .axes import CMAP, SHARE, check_drawable, step_label
from .page_data import Content, group_data, of_comparison, of_findings, position, run_of

# %% parts
WEB = Path(__file__).parent/'web'
SCRIPTS = 'uPlot.iife.min.js', 'page.js', 'page_controls.js'
STYLES = 'uPlot.min.css', 'page.css'

@cache
def web(name): return (WEB/name).read_text(encoding='utf-8')

def digest(text:str) -> str: # As a content security policy wants it
    "What lets a script or a style run"
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

def policy() -> str:
    "Nothing is loaded, nothing runs but the scripts of this module, and no text becomes a script"
    scripts, styles = (' '.join(digest(web(n)) for n in names) for names in (SCRIPTS, STYLES))
    return (f"default-src 'none'; script-src {scripts}; style-src {styles}; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'")

def data(
    content, # What JSON holds
    **attributes # Of the element
) -> Html:
    "A block of data, in which no character can end it"
    text = json.dumps(content, separators=(',', ':'), allow_nan=False)
    for c in '<>&': text = text.replace(c, f'\\u{ord(c):04x}')
    return tag('script', Html(text), **attributes)

# %% head
def known(
    about:dict # Of anything that JSON holds
) -> list[tuple[str, str]]: # Name, text
    "What is known of a run, a line each: dictionaries in it are gone into"
    lines = []
    for name, value in about.items():
        if isinstance(value, dict): lines += [(f'{name}: {n}', v) for n, v in known(value)]
        elif value not in (None, '', [], ()): lines.append((str(name), str(value)))
    return lines

def description(content:Content) -> Html:
    "What was trained, and what was recorded of it"
    parts, said = [], None
    for group in content.groups:
        rec = group.rec
        lines = [('recorded', described(rec))]
        if len(group.shown) < len(rec.main_phase):
            lines.append(('drawn', f"{len(group.shown)} columns, neighbours of {len(rec.main_phase)} merged"))
        if not rec.columns['valid'].all() and rec.columns['valid'].any():
            lines.append(('not drawn', f"{int(rec.columns['valid'].sum())} columns of validation"))
        if rec.made != said: lines += known(made() | rec.made)
        said = rec.made
        parts += [tag('h3', tag('bdi', group.title)), tag('dl', *(
            together(tag('dt', tag('bdi', k)), tag('dd', *lines_of(v))) for k, v in lines))]
        if rec.notes is not None: parts.append(tag('pre', notes_of(rec.notes)))
    return tag('details', tag('summary', 'What was trained and recorded'), *parts, open='')

def lines_of(text): return [part for line in text.split('\n') for part in (tag('bdi', line), Html('<br>'))][:-1]

def notes_of(notes): return json.dumps(notes, indent=1, ensure_ascii=False, default=str)

def findings(content:Content) -> Html:
    "The report: its first line, and its findings with a link to where they are seen"
    said = [tag('p', tag('b', tag('bdi', line))) for line in content.headlines]
    if not content.sights: return together(*said)
    head = tag('tr', *(tag('th', h, scope='col') for h in ('layer', 'finding', 'since step', 'evidence', 'what to try')))
    rows = []
    for i, (f, section, _) in enumerate(content.sights):
        name = tag('bdi', f.layer)
        if section is not None: name = link(content, i, name)
        cells = name, tag('bdi', f.finding), f.since, tag('bdi', f.evidence), tag('bdi', f.remedy)
        rows.append(tag('tr', *(tag('td', c) for c in cells)))
    return together(*said, tag('div', tag('table', tag('thead', head), tag('tbody', *rows)), class_='scroll', tabindex=0,
                               role='region', aria_label='findings'))

def link(content, i, inside):
    f, section, group = content.sights[i]
    step = position(content.groups[group].shown, f.since)
    return tag('a', inside, href=f'#layer-{section}', data_layer=section, data_group=group, data_step=f'{step:g}')

# %% body
HELP = ("Drag over a picture to zoom, with Shift to move, double-click for the whole run; Ctrl and the wheel zoom, Shift "
        "and the wheel move. With the focus on a picture, arrow keys read it out, Shift and arrow keys move, + and - zoom, "
        "0 shows the whole run.")

def options(names, first):
    "Of a select; what is chosen begins with = so that no name can be taken for a choice of ours"
    return [tag('option', first, value='')] + [tag('option', n, value=f'={n}') for n in names]

def controls(content:Content) -> Html:
    "Search, filters, and the view that all pictures share"
    kinds = sorted({s.type for s in content.sections if s.type})
    found = list(dict.fromkeys(f.finding for f, section, _ in content.sights if section is not None))
    choices = options(found, 'any layer')
    choices.insert(1, tag('option', 'layers with a finding', value='any'))
    def labelled(text, element): return tag('label', text, ' ', element)
    buttons = {'zoom-in': ('+', 'zoom in'), 'zoom-out': ('−', 'zoom out'), 'pan-left': ('◂', 'earlier'),
               'pan-right': ('▸', 'later'), 'reset': ('whole run', 'show the whole run')}
    return tag('nav', labelled('search', tag('input', id='search', type='search', autocomplete='off')),
               labelled('kind', tag('select', *options(kinds, 'every kind'), id='kind')),
               labelled('finding', tag('select', *choices, id='finding')), tag('output', id='matches', role='status'),
               *(tag('button', text, id=i, type='button', aria_label=said) for i, (text, said) in buttons.items()),
               tag('output', id='view'), aria_label='search and view')

def picture(kind, label, caption, **of):
    "A place for a chart, which is drawn when it comes into sight"
    given = {f'data_{k}': v for k, v in of.items()}
    box = tag('div', class_=kind, tabindex=0, role='application', aria_roledescription='chart', aria_label=label,
              aria_describedby='help', **given)
    return tag('figure', tag('figcaption', tag('bdi', caption)), box)

def charts(content:Content, g:int) -> Html:
    "Statistics of all layers of a record, and its loss and learning rate"
    group, parts = content.groups[g], []
    if run_of(group.shown):
        parts.append(picture('run', f'{group.title}: loss and learning rate', 'loss (dashed: learning rate)', group=g))
    parts += [picture('stat', f'{group.title}: {label} of every layer', label, group=g, stat=stat)
              for stat, label in STATS.items()]
    return together(tag('h3', tag('bdi', group.title)), tag('div', *parts, class_='charts'))

def section(content:Content, i:int) -> Html:
    "A layer: its name, what was found of it, its panels"
    s = content.sections[i]
    found = [(k, o.finding) for k, o in enumerate(content.sights) if o.section == i]
    links = [together(link(content, k, tag('bdi', f'{f.finding} since step {f.since}')), ' ') for k, f in found]
    title = tag('h3', tag('bdi', s.name), ' ', tag('span', tag('bdi', s.type), ' ', s.shape, class_='kind'))
    titles = [content.groups[g].title if len(content.groups) > 1 else '' for g, _ in s.panels]
    panels = [picture('panel', f'{s.name} {said}: colourful dimension', said, group=g, layer=layer, section=i)
              for (g, layer), said in zip(s.panels, titles)]
    said = [tag('p', *links, class_='found')] if links else []
    return tag('section', title, *said, tag('div', *panels, class_='panels'), class_='layer', id=f'layer-{i}')

COLUMNS = 'layer', 'type', 'mean', 'std', 'min', 'max', 'near_zero', 'nonfinite'

def numbers(content:Content, g:int) -> Html:
    "The last epoch of a record, a row a layer"
    group, where = content.groups[g], {}
    for i, s in enumerate(content.sections): where |= {layer: i for h, layer in s.panels if h == g}
    head = tag('tr', *(tag('th', c.replace('_', ' '), scope='col') for c in COLUMNS))
    rows = []
    for i, row in enumerate(overview(group.shown)[list(COLUMNS)].itertuples(index=False)):
        name, kind, *values = row
        name = tag('a', tag('bdi', name), href=f'#layer-{where[i]}', data_layer=where[i], data_group=g, data_step='')
        cells = [tag('td', name), tag('td', tag('bdi', kind))] + [tag('td', f'{v:.4g}', class_='number') for v in values]
        rows.append(tag('tr', *cells, data_layer=where[i]))
    return together(tag('h3', tag('bdi', group.title)), tag('table', tag('thead', head), tag('tbody', *rows)))

# %% page
def page_data(
    content:Content,
    cmap:str # Colour map
) -> tuple[dict, list[str]]: # What JSON holds; blocks of numbers, which it names by their ids
    "What the scripts have to know"
    blocks = []
    def hold(text):
        blocks.append(text)
        return f'block-{len(blocks) - 1}'
    groups = [group_data(g, hold) for g in content.groups]
    layers = []
    for i, s in enumerate(content.sections):
        seen = [(f, g) for f, section, g in content.sights if section == i]
        since = [(g, position(content.groups[g].shown, f.since)) for f, g in seen]
        layers.append(dict(name=s.name, type=s.type, panels=s.panels, findings=[f.finding for f, _ in seen], since=since))
    ends = [x for g in groups for x in (g['x'][0], g['x'][-1])] or [0, 1]
    least = min([float(np.diff(g['x']).min()) for g in groups], default=1)
    colours = np.round(255*colormaps[cmap](np.arange(256))[:, :3]).astype(int).tolist()
    return dict(view=[min(ends), max(ends)], least=least, palette=colours, share=SHARE, shares=content.compared,
                groups=groups, layers=layers), blocks

def page(
    content:Content,
    cmap:str=CMAP # Colour map
) -> Html:
    "The whole page"
    known, blocks = page_data(content, cmap)
    head = [tag('meta', charset='utf-8'), tag('meta', **{'http-equiv': 'Content-Security-Policy'}, content=policy()),
            tag('meta', name='viewport', content='width=device-width'), tag('title', content.title),
            *(tag('style', Html(web(n))) for n in STYLES)]
    body = [tag('h1', tag('bdi', content.title)), findings(content), description(content)]
    if content.groups:
        colour = 'share of a column, logarithmic' if content.compared else "log(1 + count), up to the layer's highest"
        legend = tag('p', 'colour: ', tag('span', '', class_='scale'), f' {colour}; white line: mean; dotted: an epoch '
                     'begins; dashed: since then there is a finding', class_='soft')
        several = range(len(content.groups))
        body += [controls(content), tag('p', HELP, id='help', class_='soft'),
                 tag('h2', f'Statistics against {step_label(content.groups[0].shown)}'), *(charts(content, g) for g in several),
                 tag('h2', 'The colourful dimension of every layer'), legend,
                 *(section(content, i) for i in range(len(content.sections))),
                 tag('details', tag('summary', 'Numbers of the last epoch'), *(numbers(content, g) for g in several)),
                 tag('div', '', id='tip', hidden=''), tag('div', '', id='said', role='status'),
                 data(known, type='application/json', id='page'), *(tag('script', Html(b), type='text/plain', id=f'block-{i}') for i, b in enumerate(blocks)),
                 *(tag('script', Html(web(n))) for n in SCRIPTS)]
    whole = tag('html', tag('head', *head), tag('body', tag('main', *body)), lang='en')
    return together(Html('<!DOCTYPE html>'), whole, Html('\n'))

def write(
    file:str|os.PathLike,
    content:Content,
    cmap:str # Colour map
) -> Path: # Where it is
    "The page in one file, whole or not at all"
    text = page(content, cmap)
    with atomic(file) as f: f.write(text.encode('utf-8', 'xmlcharrefreplace'))
    return Path(file)

# %% to-html
@patch
def to_html(
    self:Record,
    file:str|os.PathLike, # Such as 'run.html'; a file of that name is replaced at once and whole
    *,
    title:str='', # Of the page
    most:int=2000, # Columns of a picture, neighbours merged
    cmap:str=CMAP # Colour map
) -> Path: # Where it is
    "One file with the report, statistics and colourful dimension of every layer, which opens without a network"
    check_drawable(self)
    return write(file, of_findings(self.report(), title or f'Record of {self.what}', most), cmap)

@patch
def to_html(
    self:Report,
    file:str|os.PathLike, # Such as 'run.html'; a file of that name is replaced at once and whole
    *,
    title:str='', # Of the page
    most:int=2000, # Columns of a picture, neighbours merged
    cmap:str=CMAP # Colour map
) -> Path: # Where it is
    "One file with the findings, and all records that were looked at"
    return write(file, of_findings(self, title or 'Report of a run', most), cmap)

@patch
def to_html(
    self:Comparison,
    file:str|os.PathLike, # Such as 'runs.html'; a file of that name is replaced at once and whole
    *,
    title:str='', # Of the page
    most:int=2000, # Columns of a picture, neighbours merged
    cmap:str=CMAP # Colour map
) -> Path: # Where it is
    "One file with the runs' layers beside each other, in the same bins and colours"
    return write(file, of_comparison(self, title or ' against '.join(self.runs), most), cmap)
