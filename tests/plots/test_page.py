"""The page of a run: what is in the file, by another parser; and what a browser does with it, without a network."""
import base64
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import make_record

from fastai_actstats.all import ActStats, Finding, GradStats, Record, Report, compare, diagnose
from fastai_actstats.plots import page_data, page_parts
from fastai_actstats.plots.page import SCRIPTS, WEB, policy
from fastai_actstats.plots.page_data import packed, position

# of dist/uPlot.iife.min.js in uplot 1.6.32 on npm
UPLOT = '19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f'

HOSTILE = ['</script><script>alert(1)</script>', '<img src=x onerror=alert(1)>', '"><svg onload=alert(1)>',
           "' onmouseover='alert(1)", '<!-- <script>', '\u202eright to left\u2066', 'x'*10_000, '=any', '\u2028\\u003c']

class Page(HTMLParser):
    "Elements with their attributes and texts"
    def __init__(self, file):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.data = [], [], None
        self.feed(file.read_text(encoding='utf-8'))
        self.close()
        for e in self.of('script'):
            if e['attrs'].get('id') == 'page': self.data = json.loads(e['text'])
    def handle_starttag(self, name, attrs):
        self.elements.append(dict(name=name, attrs=dict(attrs), text=''))
        if name not in ('meta', 'input', 'br'): self.open.append(self.elements[-1])
    def handle_endtag(self, name):
        assert self.open[-1]['name'] == name, (name, self.open[-1])
        self.open.pop()
    def handle_data(self, text):
        if self.open: self.open[-1]['text'] += text
    def of(self, name): return [e for e in self.elements if e['name'] == name]
    @property
    def shape(self): return [(e['name'], sorted(e['attrs'])) for e in self.elements]
    @property
    def texts(self): return [e['text'] for e in self.elements if e['name'] not in ('script', 'style')]
    def block(self, i):
        "An array of the page, unpacked without the page's own means"
        [text] = [e['text'] for e in self.of('script') if e['attrs'].get('id') == i]
        kind, raw = np.dtype('<' + text[:2]), zlib.decompress(base64.b64decode(text[3:]))
        n = len(raw)//kind.itemsize
        return np.frombuffer(b''.join(raw[j::n] for j in range(n)), kind)

def rare(text='plain'):
    "Layers, types, findings, notes and what is known of the run are called `text`"
    rec = make_record(layers=2, notes={text: [text]})
    info = {text: dict(type=text, shape=(text, 3), then=text)}
    return Record(rec.summary.rows, rec.columns, [text, 'b'], rec.bins, text, info, (0,), rec.notes,
                  {text: text, 'versions': {text: text}})

def pages_of(text, folder):
    "A page of each kind"
    rec = rare(text)
    report = rec.report()
    report = Report([Finding(text, text, 5, text, text)], text, '', report.sources, [(0, text)])
    report.to_html(folder/'report.html', title=text)
    rec.to_html(folder/'record.html', title=text)
    compare({text: rec, text + '2': rec}).to_html(folder/'runs.html')
    return {f.stem: f for f in sorted(folder.glob('*.html'))}

@pytest.fixture(scope='module')
def trained(few, settings, tmp_path_factory):
    "A network that dies, its pages, and what they were made of"
    from helpers import reference_cnn, seeded
    learn = seeded(few, settings, [ActStats(), GradStats()], reference_cnn(False, settings.channels, settings.kernels))
    learn.fit(2, .3)
    folder, rec = tmp_path_factory.mktemp('pages'), learn.act_stats.record
    rec.to_html(folder/'record.html')
    diagnose(learn).to_html(folder/'diagnose.html')
    half = rec.between(0, 13)
    compare(whole=rec, half=half).to_html(folder/'runs.html')
    return folder, rec, diagnose(learn)

# the file

def test_every_number_of_the_record_is_in_it(trained):
    folder, rec, _ = trained
    page = Page(folder/'record.html')
    [group] = page.data['groups']
    T, L = len(rec), len(rec.layers)
    counts = np.stack([page.block(i).reshape(-1, T) for i in group['counts']], 0)
    assert np.array_equal(counts.transpose(2, 0, 1)[..., 1:-1], rec.hist)
    assert np.array_equal(counts[:, 0].T, rec.underflow) and np.array_equal(counts[:, -1].T, rec.overflow)
    assert np.array_equal(page.block(group['totals']).reshape(L, T).T, rec.count) and rec.overflow.any()
    for stat, i in group['stats'].items():
        assert np.array_equal(page.block(i).reshape(L, T).T, getattr(rec, stat), equal_nan=True), stat
    assert group['x'] == [*rec.steps[:, 0], rec.steps[-1, 1] + 1] and group['edges'] == rec.edges.tolist()
    assert [s['name'] for s in page.data['layers']] == rec.layers
    assert [s['type'] for s in page.data['layers']] == list(rec.types.values())

@pytest.mark.parametrize('values', [[0, 255], [0, 256, 1], [2**16, 3], [2**32 - 1], [2**32, 5, 2**53 - 1], [],
                                    [0., np.nan, -np.inf, 1e300, 5e-324]])
def test_numbers_stay_what_they_are(values):
    a = np.array(values) if values else np.zeros(0, int)
    kind, _, text = packed(a).partition(':')
    raw = zlib.decompress(base64.b64decode(text))
    planes = np.frombuffer(raw, 'u1').reshape(int(kind[1]), len(a))
    back = np.ascontiguousarray(planes.T).reshape(-1).view(f'<{kind}')
    assert np.array_equal(back.astype(a.dtype), a, equal_nan=True)

def test_columns_are_merged_until_they_can_be_seen_and_it_says_so(tmp_path):
    rec = make_record(layers=2, steps=40)
    page = Page(rec.to_html(tmp_path/'run.html', most=10))
    [group] = page.data['groups']
    assert np.array_equal(page.block(group['counts'][1]).reshape(-1, 10)[1:-1].T, rec.merged(10).hist[:, 1])
    assert '10 columns, neighbours of 40 merged' in page.texts

def test_findings_know_their_layer_and_step(trained):
    folder, rec, report = trained
    page, names = Page(folder/'diagnose.html'), {i: s.rec.layers for i, s in enumerate(report.sources)}
    links = [e['attrs'] for e in page.of('a') if e['attrs'].get('data-step')]
    rows = links[:len(report)]
    assert len(report) > 1 and len(links) == 2*len(report)  # in the table, and at the layer
    for f, (source, name), link in zip(report, report.places, rows):
        s = page.data['layers'][int(link['data-layer'])]
        assert s['name'] == name and name in names[source] and float(link['data-step']) == f.since
        assert page.data['groups'][s['panels'][0][0]]['title'] == report.sources[source].what == \
            page.data['groups'][int(link['data-group'])]['title']
    assert {f.finding for f in report} == {n for s in page.data['layers'] for n in s['findings']}

def test_a_report_goes_on_its_own_without_records(trained, tmp_path):
    import pickle
    report = pickle.loads(pickle.dumps(trained[2]))
    assert len(report) and not report.sources
    page = Page(report.to_html(tmp_path/'report.html'))
    assert page.data is None and report.headline in page.texts

def test_steps_on_an_axis_that_counts_validation_columns():
    rec = make_record(steps=8).replace()
    columns = rec.columns.copy()
    columns['valid'], columns['first'], columns['last'] = True, np.arange(8)//4*10 + 9, np.arange(8)//4*10 + 9
    valid = rec.replace(columns=columns)
    assert position(rec, 5) == 5 and position(rec, 999) == 8 and position(valid, 9) == 0 and position(valid, 19) == 4

@pytest.mark.parametrize('text', HOSTILE, ids=lambda t: t[:12])
def test_what_comes_from_a_record_is_text(tmp_path, text):
    folders = [tmp_path/'evil', tmp_path/'plain']
    for f in folders: f.mkdir()
    evil, plain = pages_of(text, folders[0]), pages_of('plain', folders[1])
    for kind in plain:
        e, p = Page(evil[kind]), Page(plain[kind])
        assert e.shape == p.shape, kind
        scripts = [s['text'] for s in e.of('script') if 'type' not in s['attrs']]
        assert scripts == [(WEB/n).read_text() for n in SCRIPTS]
        assert e.data['layers'][0]['name'] == text and e.data['layers'][0]['type'] == text
        assert sum(text in t for t in e.texts) >= 4, kind

def test_nothing_is_asked_of_anybody(trained):
    for file in trained[0].glob('*.html'):
        page = Page(file)
        [said] = [e['attrs']['content'] for e in page.of('meta') if e['attrs'].get('http-equiv')]
        rules = dict(rule.split(' ', 1) for rule in said.split('; '))
        assert said == policy() and rules['default-src'] == "'none'" and 'unsafe' not in said
        for name, rule in (('script', 'script-src'), ('style', 'style-src')):
            run = [e['text'] for e in page.of(name) if 'type' not in e['attrs']]
            due = ["'sha256-" + base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() + "'" for t in run]
            assert run and rules[rule].split() == due
        for e in page.elements:
            assert e['name'] not in ('link', 'img', 'iframe', 'object', 'embed', 'base', 'form')
            assert e['attrs'].get('href', '#').startswith('#') and not {'src', 'style', 'action'} & e['attrs'].keys()
            assert not any(a.startswith('on') for a in e['attrs'])

def test_the_library_is_the_one_that_was_published():
    digest = hashlib.sha256((WEB/'uPlot.iife.min.js').read_bytes()).hexdigest()
    assert digest == UPLOT and 'Permission is hereby granted' in (WEB/'uPlot.LICENSE').read_text()

def test_its_scripts_are_javascript(tmp_path):
    node = shutil.which('node')
    if not node: pytest.skip('no node here: the scripts were not parsed')
    file = tmp_path/'all.js'
    file.write_text(''.join((WEB/n).read_text() for n in SCRIPTS))
    assert subprocess.run([node, '--check', file], capture_output=True).returncode == 0

def test_nothing_to_draw(tmp_path):
    with pytest.raises(ValueError, match='nothing to draw'): make_record().part(slice(0, 0)).to_html(tmp_path/'x.html')
    assert not list(tmp_path.iterdir())

def with_run(monkeypatch, T):
    "Records of `T` columns have a loss and a learning rate"
    values = np.stack([np.linspace(2, .5, T), np.linspace(0, .1, T)])
    for module in (page_data, page_parts): monkeypatch.setattr(module, 'run_of', lambda rec: (['loss', 'lr'], values))
    return values

def test_loss_and_learning_rate_are_there_where_they_were_recorded(monkeypatch, tmp_path):
    run = make_record(layers=4).replace(layers=['input', 'loss', 'lr.0', 'lr.1'])
    names, values = page_data.run_of(SimpleNamespace(run=run))
    assert names == ['loss', 'lr.0', 'lr.1'] and np.array_equal(values, run.mean[:, 1:].T)
    assert page_data.run_of(SimpleNamespace(run=None)) is None
    rec = make_record()
    kinds = lambda page: [e['attrs'].get('class') for e in page.of('div')]
    assert 'run' not in kinds(Page(rec.to_html(tmp_path/'without.html')))
    values = with_run(monkeypatch, len(rec))
    page = Page(rec.to_html(tmp_path/'with.html'))
    assert 'run' in kinds(page)
    known = page.data['groups'][0]['run']
    assert known['names'] == ['loss', 'lr'] and np.array_equal(page.block(known['values']), values.ravel())

# in a browser

FRAME = "() => new Promise(requestAnimationFrame)"
DRAWN = """async () => {
  const there = () => charts.some(c => c.visible) && charts.every(c => !c.visible || c.u);
  for (let i = 0; i < 500 && !there(); i++) await new Promise(done => setTimeout(done, 20));
  await new Promise(requestAnimationFrame);
  return there();
}"""
AT = """([k, t, row]) => {  // where on the screen a cell of a panel is
  const c = charts[k], box = c.u.over.getBoundingClientRect();
  return [box.left + c.u.valToPos(middle(c.group.x, t), 'x'), box.top + c.u.valToPos(height_of(c, row), 'y')];
}"""

@pytest.fixture(scope='module')
def chromium():
    where = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not where: pytest.skip('no chromium here: pages were read as files only (apt-get install chromium)')
    playwright = pytest.importorskip('playwright.sync_api', reason='no playwright here: pages were read as files only')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=where, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield browser
        browser.close()

@pytest.fixture
def opened(chromium):
    "Open a page without a network; afterwards nothing was asked for, said in the console or raised"
    asked, said, contexts = [], [], []
    def opens(file, **kwargs):
        contexts.append(context := chromium.new_context(viewport=dict(width=1200, height=900), offline=True, **kwargs))
        page = context.new_page()
        page.on('request', lambda r: asked.append(r.url))
        page.on('console', lambda m: said.append(m.text))
        page.on('pageerror', lambda e: said.append(str(e)))
        page.on('dialog', lambda d: (said.append(d.message), d.dismiss()))
        page.goto(file.as_uri())
        asked.remove(file.as_uri())
        page.evaluate("() => charts[0].el.scrollIntoView()")
        assert page.evaluate(DRAWN), said
        return page
    yield opens
    assert not asked and not said, (asked, said)
    for context in contexts: context.close()

def panel(page, name, group=0):
    "Index of a layer's chart, which is scrolled to"
    k = page.evaluate("""([name, g]) => {
      const k = charts.findIndex(c => c.group === page.groups[g] && c.group.names[c.layer] === name);
      charts[k].el.scrollIntoView({block: 'center'});
      return k;
    }""", [name, group])
    assert page.evaluate(DRAWN)
    page.evaluate(FRAME)
    return k

def tip(page): return page.evaluate("() => $('tip').hidden ? null : $('tip').textContent")

@pytest.mark.slow
def test_hover_gives_the_counts_of_the_record(trained, opened):
    folder, rec, _ = trained
    page = opened(folder/'record.html')
    rng, counts = np.random.RandomState(0), rec.summary.counts.numpy().astype(int)
    for i, name in enumerate(rec.layers):
        k = panel(page, name)
        held = page.evaluate("k => [...charts[k].counts]", k)
        assert np.array_equal(np.reshape(held, (-1, len(rec))).T, counts[:, i])
        below, above = page.evaluate("k => [charts[k].group.below, charts[k].group.above]", k)
        assert (below, above) == (bool(rec.underflow.any()), bool(rec.overflow.any()))
        cells = [(t, row) for t, row in zip(rng.randint(0, len(rec), 6), rng.randint(1, rec.bins.n + 1, 6))]
        cells += [(len(rec) - 1, int(counts[-1, i, 1:-1].argmax()) + 1)] + [(9, 0)]*below + [(9, rec.bins.n + 1)]*above
        for t, row in cells:
            page.mouse.move(*page.evaluate(AT, [k, int(t), int(row)]))
            step, values, count = tip(page).split('\n')
            assert step == f'step {rec.steps[t, 0]}, epoch {rec.epochs[t]}'
            n, total = (int(v.replace(',', '')) for v in re.fullmatch(r'count (\S+) of (\S+) \(.*\)', count).groups())
            assert (n, total) == (counts[t, i, row], rec.count[t, i]), (name, t, row)
            if 0 < row <= rec.bins.n:
                low, high = values.removeprefix('values ').split(' to ')
                assert np.allclose([float(low), float(high)], rec.edges[row - 1:row + 1], rtol=1e-3)
            else: assert values == (f'values below {rec.bins.lo:g}' if row == 0 else f'values above {rec.bins.hi:g}')

@pytest.mark.slow
def test_zoom_and_pan_move_all_panels(trained, opened):
    page = opened(trained[0]/'record.html')
    k = panel(page, trained[1].layers[0])
    scales = "() => charts.filter(c => c.visible).map(c => [c.u.scales.x.min, c.u.scales.x.max])"
    pictures = "() => charts.filter(c => c.visible).map(c => c.u.ctx.canvas.toDataURL())"
    before, drawn = page.evaluate(scales), page.evaluate(pictures)
    assert len(before) > 2 and len(set(map(tuple, before))) == 1
    (x0, y), (x1, _) = (page.evaluate(AT, [k, t, 40]) for t in (5, 15))
    page.mouse.move(x0, y)
    page.mouse.down()
    page.mouse.move(x1, y, steps=4)
    page.mouse.up()
    for _ in range(3): page.evaluate(FRAME)
    after = page.evaluate(scales)
    assert len(set(map(tuple, after))) == 1 and np.allclose(after[0], [5.5, 15.5], atol=.1)
    assert all(a != b for a, b in zip(drawn, page.evaluate(pictures)))
    page.get_by_role('button', name='later').click()
    for _ in range(3): page.evaluate(FRAME)
    panned = page.evaluate(scales)
    assert len(set(map(tuple, panned))) == 1 and np.allclose(panned[0], [10.5, 20.5], atol=.1)
    last = panel(page, trained[1].layers[-1])  # out of sight until now
    assert np.allclose(page.evaluate("k => [charts[k].u.scales.x.min, charts[k].u.scales.x.max]", last), panned[0])
    page.mouse.dblclick(*page.evaluate(AT, [last, 15, 40]))
    for _ in range(3): page.evaluate(FRAME)
    assert page.evaluate(scales)[0] == before[0]

def seen(page):
    "Names of the layers that are shown"
    return page.evaluate("""() => [...document.querySelectorAll('.layer')].filter(e => e.checkVisibility())
      .map(e => e.querySelector('h3 bdi').textContent)""")

@pytest.mark.slow
def test_search_and_filters_find_layers(trained, opened):
    folder, rec, report = trained
    page = opened(folder/'diagnose.html')
    every = seen(page)
    page.get_by_role('searchbox', name='search').fill('3.0 nowhere')
    assert seen(page) == []
    page.get_by_role('searchbox', name='search').fill('3.0 conv')
    assert set(seen(page)) == {'3.0'}
    lines = page.evaluate("""() => charts.filter(c => c.stat && c.u)
      .map(c => c.u.series.slice(1).filter(s => s.show).length)""")
    assert set(lines) == {1}
    page.get_by_role('searchbox', name='search').fill('GRADIENTS')
    assert len(seen(page)) == len(rec.layers)
    page.get_by_role('searchbox', name='search').fill('')
    kinds = page.get_by_role('combobox', name='kind').locator('option').all_text_contents()
    assert kinds[1:] == sorted(set(rec.types.values()))
    page.get_by_role('combobox', name='kind').select_option(kinds[1])
    assert len(seen(page)) == sum(t == kinds[1] for t in rec.types.values())*2
    page.get_by_role('combobox', name='kind').select_option('')
    page.get_by_role('combobox', name='finding').select_option('any')
    assert set(seen(page)) == {n for _, n in report.places}
    first = next(iter(report)).finding
    page.get_by_role('combobox', name='finding').select_option(f'={first}')
    assert set(seen(page)) == {n for f, (_, n) in zip(report, report.places) if f.finding == first}
    page.get_by_role('combobox', name='finding').select_option('')
    assert seen(page) == every

@pytest.mark.slow
def test_a_finding_leads_to_its_layer_and_step(trained, opened):
    folder, rec, report = trained
    page = opened(folder/'diagnose.html')
    page.get_by_role('searchbox', name='search').fill('nowhere')
    show = page.evaluate("() => show_view(20, 27)")  # the step is out of sight
    for i, (f, (source, name)) in enumerate(zip(report, report.places)):
        page.locator('table a').nth(i).click()
        page.wait_for_timeout(100)
        found = page.evaluate("""() => {
          const el = document.activeElement, c = el.chart, box = el.getBoundingClientRect();
          return [c.group.title, c.group.names[c.layer], c.cell[0], box.top >= 0 && box.bottom <= innerHeight,
                  c.u.scales.x.min <= c.group.middles[c.cell[0]] && c.group.middles[c.cell[0]] <= c.u.scales.x.max];
        }""")
        rows = report.sources[source].rec
        assert found == [rows.what, name, f.since, True, True], show
        assert tip(page).startswith(f'step {f.since},')
    assert len(report) > 1

@pytest.mark.slow
def test_it_is_used_by_keyboard_and_read_out(trained, opened):
    folder, rec, _ = trained
    page = opened(folder/'record.html')
    page.get_by_role('searchbox', name='search').focus()
    page.keyboard.type(rec.layers[1])
    k = panel(page, rec.layers[1])
    box = page.locator('.panel').nth(1)
    assert box.get_attribute('role') == 'application' and rec.layers[1] in box.get_attribute('aria-label')
    for _ in range(30):  # as far as the panel
        page.keyboard.press('Tab')
        if page.evaluate("k => document.activeElement === charts[k].el", k): break
    for key in ['Home', *['ArrowRight']*3, 'ArrowUp']: page.keyboard.press(key)
    t, row = page.evaluate("k => charts[k].cell", k)
    said = page.get_by_role('status').filter(has_text='count').text_content()
    assert t == 3 and said.startswith('step 3, epoch 0; values ')
    assert f'count {int(rec.summary.counts[3, 1, row]):,} of' in said
    page.keyboard.press('+')
    for _ in range(3): page.evaluate(FRAME)
    assert page.evaluate("() => view.max - view.min") == len(rec)/2
    page.keyboard.press('0')
    for _ in range(3): page.evaluate(FRAME)
    assert page.evaluate("() => view.max - view.min") == len(rec)

@pytest.mark.slow
def test_the_line_under_the_pointer_is_named(trained, opened):
    folder, rec, _ = trained
    page = opened(folder/'record.html')
    k = page.evaluate("() => charts.findIndex(c => c.stat === 'near_zero')")
    page.evaluate("k => charts[k].el.scrollIntoView({block: 'center'})", k)
    assert page.evaluate(DRAWN)
    i, t = 0, int(np.abs(rec.near_zero - rec.near_zero[:, :1])[:, 1:].min(1).argmax())  # far from other lines
    spot = """([k, i, t]) => { const c = charts[k], box = c.u.over.getBoundingClientRect();
      return [box.left + c.u.valToPos(c.group.middles[t], 'x'), box.top + c.u.valToPos(c.u.data[i + 1][t], 'y')]; }"""
    x, y = page.evaluate(spot, [k, i, t])
    page.mouse.move(x + 30, y)
    page.mouse.move(x, y)
    name, value, step = tip(page).split('\n')
    assert name == rec.layers[i] and step == f'step {t}, epoch {rec.epochs[t]}'
    assert np.isclose(float(value.removeprefix('near zero ')), rec.near_zero[t, i], rtol=1e-3)

@pytest.mark.slow
def test_loss_and_learning_rate_are_drawn(monkeypatch, tmp_path, opened):
    rec = make_record()
    values = with_run(monkeypatch, len(rec))
    page = opened(rec.to_html(tmp_path/'run.html'))
    k = page.evaluate("() => charts.findIndex(c => c.group.run && c.el.className === 'run')")
    page.evaluate("k => charts[k].el.scrollIntoView({block: 'center'})", k)
    assert page.evaluate(DRAWN) and page.evaluate("k => charts[k].u.data.slice(1)", k) == values.tolist()
    page.locator('.run').hover(position=dict(x=120, y=60))
    step, loss, rate = tip(page).split('\n')
    t = int(step.split(',')[0].removeprefix('step '))
    for said, name, due in ((loss, 'loss', values[0, t]), (rate, 'lr', values[1, t])):
        assert np.isclose(float(said.removeprefix(name)), due, rtol=1e-3)

@pytest.mark.slow
@pytest.mark.parametrize('text', [HOSTILE[0], HOSTILE[5], HOSTILE[6], ''.join(HOSTILE)],
                         ids=['tags', 'right to left', 'long', 'all'])
def test_names_and_notes_do_no_harm(tmp_path, opened, text):
    for kind, file in pages_of(text, tmp_path).items():
        page = opened(file)
        names = page.evaluate("() => page.layers.map(l => l.name)")
        assert names[0] == text and seen(page)[0] == text.replace('\r', '')
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), kind
        page.get_by_role('searchbox', name='search').fill(text[:100])
        assert seen(page) == ([text] if kind == 'runs' else [text, 'b'])  # the others' kind of record is called so too
        page.mouse.move(*page.evaluate(AT, [panel(page, text), 3, 5]))
        assert 'count' in tip(page)
        assert page.evaluate("() => document.scripts.length") == len(Page(file).of('script'))

@pytest.mark.slow
def test_no_other_script_runs_in_it(trained, chromium):
    page = chromium.new_page()
    page.goto((trained[0]/'record.html').as_uri())
    tried = page.evaluate("""async () => {
      const script = document.createElement('script');
      const tries = [() => { script.append('hacked = 1'); document.body.append(script); },
                     () => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked=1>'); },
                     () => { new Function('hacked = 1')(); }];
      // later, for what is called from without may do what the page may not
      for (const attempt of tries) setTimeout(() => { try { attempt(); } catch {} });
      await new Promise(done => setTimeout(done, 200));
      return fetch('https://example.org').then(() => 'reached', () => typeof hacked);
    }""")
    assert tried == 'undefined'
    page.close()

@pytest.mark.slow
def test_runs_stand_side_by_side(trained, opened):
    folder, rec, _ = trained
    page = opened(folder/'runs.html')
    a, b = panel(page, rec.layers[2], 0), panel(page, rec.layers[2], 1)
    assert page.evaluate("([a, b]) => charts[a].el.offsetTop === charts[b].el.offsetTop", [a, b])
    column = "([a, b]) => [a, b].map(k => [...charts[k].levels].filter((_, i) => i % charts[k].T === 3))"
    levels = page.evaluate(column, [a, b])  # of the same column of the same run
    assert levels[0] == levels[1] and max(levels[0]) > 100
    ends = page.evaluate("([a, b]) => [a, b].map(k => [charts[k].u.scales.x.min, charts[k].u.scales.x.max])", [a, b])
    assert ends[0] == ends[1] == [0, len(rec)]
