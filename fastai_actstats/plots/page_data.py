"""What a page of a run holds: records as the browser unpacks them, and where a finding is seen

A `Group` is a record that is drawn, a `Section` a layer with its panels: one for each run where runs are compared.
Counts stay the integers that they are; an array is compressed, and unpacked when its layer first comes into sight."""

from __future__ import annotations

import base64
import zlib
from typing import NamedTuple

import numpy as np

from ..analysis.compare import Comparison
from ..analysis.report import Report, examine
from ..core.record import STATS, Record
from .axes import drawable, step_edges, value_ticks
from .steps import outside

# %% packed
def packed(
    values:np.ndarray # Whole numbers up to 2**53, or floats
) -> str: # Type, and base64 of the compressed bytes
    "An array as text that takes little room: the lowest bytes of all values first, then the next ones"
    kind = 'f8'
    if values.dtype.kind in 'iu':
        most = int(values.max(initial=0))
        kind = next((k for k in ('u1', 'u2', 'u4') if most < 256**int(k[1])), 'f8')
    plain = np.ascontiguousarray(values, f'<{kind}').reshape(-1)
    planes = plain.view('u1').reshape(-1, plain.itemsize).T
    return f"{kind}:{base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode()}"

# %% parts
class Group(NamedTuple):
    "A record that is drawn"
    title:str # Whose it is
    rec:Record # As it was recorded
    shown:Record # The columns that are drawn

class Section(NamedTuple):
    "A layer"
    name:str
    type:str
    shape:str
    panels:list[tuple[int, int]] # For each of its panels, the group and the layer in it

class Sight(NamedTuple):
    "A finding, and where it is to be seen"
    finding:NamedTuple # A row of a report
    section:int|None # `None`: its layer is not drawn
    group:int|None

class Content(NamedTuple):
    "All that a page shows"
    title:str
    headlines:list[str] # Of the reports
    sights:list[Sight]
    groups:list[Group]
    sections:list[Section]
    compared:bool # Are the groups runs that are compared, in the same layers?

def shape_of(rec, name): return ' × '.join(map(str, rec.info.get(name, {}).get('shape', ())))

def sections_of(
    g:int, # Which group
    rec:Record
) -> list[Section]:
    "A section a layer"
    return [Section(n, rec.types[n], shape_of(rec, n), [(g, i)]) for i, n in enumerate(rec.layers)]

# %% contents
def of_findings(
    report:Report, # What was found
    title:str, # Of the page
    most:int # Columns of a picture
) -> Content:
    "A report, and the records that it is on"
    groups, sections, at = [], [], {}
    for i, source in enumerate(report.sources):
        rec = source.rec
        if not isinstance(rec, Record) or not len(rec) or not rec.layers: continue
        groups.append(Group(source.what, rec, drawable(rec, most)))
        for s in sections_of(len(groups) - 1, groups[-1].shown):
            at[i, s.name] = len(sections)
            sections.append(s)
    sights = []
    for f, place in zip(report, report.places):
        s = at.get(place)
        sights.append(Sight(f, s, None if s is None else sections[s].panels[0][0]))
    return Content(title, [report.headline], sights, groups, sections, False)

def of_comparison(
    comparison:Comparison,
    title:str, # Of the page
    most:int # Columns of a picture
) -> Content:
    "Runs, their layers beside each other"
    groups = [Group(run, comparison.whole[run], drawable(rec, most)) for run, rec in comparison.runs.items()]
    first = groups[0].shown
    sections = [Section(s.name, s.type, s.shape, [(g, i) for g in range(len(groups))])
                for i, s in enumerate(sections_of(0, first))]
    headlines, sights = [], []
    for g, (run, rec) in enumerate(comparison.whole.items()):
        report = examine([rec])
        headlines.append(f'{run}: {report.headline}')
        names = {n: i for i, n in enumerate(comparison.names[run])}
        for f in report:
            s = names.get(f.layer)
            sights.append(Sight(f._replace(layer=f'{run}: {f.layer}'), s, None if s is None else g))
    return Content(title, headlines, sights, groups, sections, True)

# %% group
def run_of(
    rec:Record # What is drawn
) -> tuple[list[str], np.ndarray]|None: # Names; float64 [lines, T]
    "Loss and learning rates over its columns, where they were recorded"
    run = getattr(rec, 'run', None)
    if run is None: return None
    names = [n for n in run.layers if n == 'loss' or n.startswith('lr')]
    if not names: return None
    return names, run[names].mean.T

def ticks(
    rec:Record
) -> list[tuple[float, str]]: # Position on an axis that counts bins, and what is written there
    "The values beside a panel"
    bins = rec.bins
    at, labels = value_ticks(bins)
    if bins.per_octave: labels = [f'{np.interp(a, np.arange(bins.n + 1), bins.edges):.3g}' for a in at]
    below, above = outside(rec)
    near = .07*bins.n
    marks = [(a, v) for a, v in zip(at, labels) if near*below <= a <= bins.n - near*above]
    if below: marks.insert(0, (-.06*bins.n, f'< {bins.lo:g}'))
    if above: marks.append((1.06*bins.n, f'> {bins.hi:g}'))
    return marks

def marks(
    rec:Record
) -> list[tuple[float, bool]]: # Where on the step axis; does a fit begin, or an epoch only?
    "Where epochs and fits begin"
    edges, c = step_edges(rec), rec.columns
    begins = np.flatnonzero((np.diff(c['epoch']) != 0) | (np.diff(c['fit']) != 0)) + 1
    return [(float(edges[i]), bool(c['fit'][i] != c['fit'][i - 1])) for i in begins] if len(begins) <= 200 else []

def position(
    rec:Record, # What is drawn
    step:int
) -> float:
    "Where a step stands on the step axis, which counts the columns of validation"
    edges = step_edges(rec)
    t = min(int(np.searchsorted(rec.columns['last'], step)), len(rec) - 1)
    return float(min(max(step, edges[t]), edges[t + 1])) if edges[t] == rec.columns['first'][t] else float(edges[t])

def group_data(
    group:Group,
    hold # Text of a block → its id
) -> dict:
    "What the browser has to know of a record"
    rec, c = group.shown, group.shown.columns
    counts = rec.summary.counts.numpy().astype(np.int64)
    below, above = outside(rec)
    run = run_of(rec)
    return dict(
        title=group.title, names=rec.layers, x=step_edges(rec).tolist(), edges=rec.edges.tolist(),
        columns=np.stack([c['first'], c['last'], c['epoch']], -1).tolist(),
        ticks=ticks(rec), marks=marks(rec), below=below, above=above, log=bool(rec.bins.per_octave),
        totals=hold(packed(rec.count.T)),
        stats={stat: hold(packed(getattr(rec, stat).T)) for stat in STATS},
        counts=[hold(packed(counts[:, i].T)) for i in range(len(rec.layers))],
        run=run and dict(names=run[0], values=hold(packed(run[1]))))
