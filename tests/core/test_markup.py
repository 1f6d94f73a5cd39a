"""Names, notes and texts are shown and never obeyed: everything public that gives HTML, parsed."""
import importlib
import pkgutil
from html.parser import HTMLParser

import pandas as pd
import pytest
import torch
from helpers import make_record
from matplotlib.figure import Figure
from torch import nn

import fastai_actstats
from fastai_actstats.all import ChannelRecord, Explanation, Finding, Record, Report, save_feature_maps
from fastai_actstats.analysis.events import Event
from fastai_actstats.callbacks.checks.registry import Outcome
from fastai_actstats.callbacks.preflight import PreflightReport
from fastai_actstats.core.channel_accumulator import ChannelAccumulator
from fastai_actstats.core.channels import ALIVE
from fastai_actstats.core.markup import Html, table, tag, together
from fastai_actstats.features.pages import _page, _row
from fastai_actstats.kernels.channels import fold_channels

HOSTILE = ['<img src=x onerror=alert(1)>', '"><script>alert(1)</script>', "' onmouseover='alert(1)",
           '</pre></td></table><b>', '&lt;b&gt;', '<!-- ']

class Reader(HTMLParser):
    "Tags with their attributes, and the text between them"
    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts = [], []
        self.feed(html)
        self.close()
    def handle_starttag(self, name, attributes):
        self.tags.append((name, [(k, v) for k, v in attributes if k not in ('href', 'src')],
                          [k for k, _ in attributes]))
    def handle_endtag(self, name): self.tags.append(('/' + name,))
    def handle_comment(self, data): self.tags.append(('!--', data))
    def handle_decl(self, decl): self.tags.append(('!', decl))
    def handle_pi(self, data): self.tags.append(('?', data))
    def handle_data(self, data): self.texts.append(data)

def record(text):
    rec = make_record(layers=2, notes={text: [text]})
    info = {text: dict(type=text, shape=(text, 3), then=text)}
    return Record(rec.summary.rows, rec.columns, [text, 'b'], rec.bins, text, info, (0,), rec.notes, {text: text})

def units(text):
    acc = ChannelAccumulator()
    acc.add_layers([text], torch.device('cpu'))
    acc.begin_batch(True)
    acc.info[text] = dict(type=text, kind='relu', shape=(4, 3), axis=1)
    fold_channels(torch.ones(4, 3), 1, acc.channels(text, text, 3), ALIVE['relu'])
    acc.filled = True
    acc.end_batch((0, 0))
    return acc.record

def preflight_report(text):
    return PreflightReport([Finding(text, text, 0, text, text)], [Outcome(text, text, text, 0.)], text)

def explanation(text):
    return Explanation([Event(text, 3, text, text)], text, pd.DataFrame([dict(step=3, what=text, before=0., then=1.)]))

MAKERS = {Record: record, ChannelRecord: units, Explanation: explanation, PreflightReport: preflight_report,
          Report: lambda text: Report([Finding(text, text, 0, text, text)], text)}

def shown():
    "Every class of the package that shows itself as HTML, and every one that inherits it"
    modules = [importlib.import_module(m.name)
               for m in pkgutil.walk_packages(fastai_actstats.__path__, 'fastai_actstats.') if '__main__' not in m.name]
    classes = {o for m in modules for o in vars(m).values() if isinstance(o, type)
               and o.__module__.startswith('fastai_actstats')}
    classes = {c for c in classes if not issubclass(c, Figure)}  # shown as pictures
    return {c for c in classes if any('_repr' in n and 'html' in n for n in dir(c)) or hasattr(c, '_repr_mimebundle_')}

def test_every_class_that_shows_itself_as_html_is_tried(): assert shown() == set(MAKERS)

@pytest.mark.parametrize('text', HOSTILE)
@pytest.mark.parametrize('maker', MAKERS.values(), ids=[c.__name__ for c in MAKERS])
def test_what_is_shown_in_a_notebook(maker, text):
    evil, plain = Reader(maker(text)._repr_html_()), Reader(maker('plain')._repr_html_())
    assert evil.tags == plain.tags and text in ''.join(evil.texts) and len(plain.tags) > 4

@pytest.mark.parametrize('text', HOSTILE)
def test_pages(tmp_path, text):
    def page(name, folder):
        layer = type(name, (nn.ReLU,), {})()
        fails = type(name, (nn.Module,), dict(forward=lambda self, x: {}))()
        model = type(f'{name}r', (nn.Module,), dict(forward=lambda self, x: [m(x) for m in self.children()][0]))()
        for n, m in ((name, layer), (f'{name}2', fails)): model.add_module(n, m)
        df = save_feature_maps(model.eval(), torch.ones(1, 2, 3, 3), folder, progress=False)
        assert df.error.astype(bool).tolist() == [False, True]
        return Reader((folder/'index.html').read_text())
    evil, plain = page(text, tmp_path/'evil'), page('plain', tmp_path/'plain')
    assert evil.tags == plain.tags and sum(text in t for t in evil.texts) >= 4
    errors = [Reader(_page(t, [_row(t, nn.ReLU(), 1, t)], True, t)) for t in (text, 'plain')]
    assert errors[0].tags == errors[1].tags and sum(text in t for t in errors[0].texts) == 6

@pytest.mark.parametrize('text', HOSTILE)
def test_tables_of_anything(text):
    frame = lambda t: pd.DataFrame({t: [t, (t, 1), {t: t}, None, 1.23456789], 'b': [1, 2, 3, 4, 5]}, index=[t]*5)
    evil, plain = Reader(table(frame(text), style=text)), Reader(table(frame('plain'), style='plain'))
    assert [t[0] for t in evil.tags] == [t[0] for t in plain.tags] and {'1.235', str((text, 1)), '5'} <= set(evil.texts)
    assert dict(evil.tags[3][1]) == {'style': text}

def test_only_what_is_html_stays_html():
    assert together('a<', tag('br2', 'x'), 1) == 'a&lt;<br2>x</br2>1' and isinstance(together('a'), Html)
    assert type(tag('p', 'x') + '<b>') is str
    assert tag('p', tag('p', 'x') + '<b>') == '<p>&lt;p&gt;x&lt;/p&gt;&lt;b&gt;</p>'  # a sum is text again
