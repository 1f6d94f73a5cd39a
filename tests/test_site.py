"""The documentation site: built by one command, every link and picture there, every public name with its parameters."""
import functools
import http.server
import inspect
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from helpers import ROOT

import fastai_actstats.all as everything

pytestmark = pytest.mark.slow

COMMAND = re.search(r'^(sphinx-build .*?)(?: +#.*)?$', (ROOT/'CONTRIBUTING.md').read_text(), re.M)[1]

class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.ids = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.ids.add(attrs['id'])
        if tag == 'a' and attrs.get('href'): self.links.append(attrs['href'])
        if tag in ('img', 'script', 'iframe') and attrs.get('src'): self.loaded.append(attrs['src'])
        if tag == 'link' and attrs.get('rel') != 'canonical' and attrs.get('href'): self.loaded.append(attrs['href'])

def build(source, out):
    "The command of CONTRIBUTING, with other folders"
    program, *args = shlex.split(COMMAND.replace(' . _site -c docs', f' {source} {out} -c {ROOT}/docs'))
    return subprocess.run([Path(sys.executable).parent/program, *args], capture_output=True, text=True, cwd=ROOT)

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('docs')
    done = build('.', out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return out/'html'

@pytest.fixture(scope='module')
def pages(site): return {f: Links(f.read_text()) for f in site.rglob('*.html') if '_static' not in f.parts}

def test_it_is_named_where_a_reader_looks():
    assert COMMAND in (ROOT/'README.md').read_text() and ' -W' in COMMAND

def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site, pages):
    assert len(pages) > 80
    wrong = []
    for page, found in pages.items():
        for link in found.links + found.loaded:
            url = urlsplit(link)
            if url.scheme in ('http', 'https', 'mailto') or url.netloc:
                if link in found.loaded: wrong.append(f'{page.name} loads {link}')
                continue
            if url.scheme == 'data': continue
            target = (page.parent/unquote(url.path)).resolve() if url.path else page
            if not target.exists(): wrong.append(f'{page.name}: {link}')
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                wrong.append(f'{page.name}: {link}')
    wrong += [f'{f.name} loads {found}' for f in site.rglob('*.css')
              for found in re.findall(r'(?:url\(|@import)\s*["\']?(?:https?:)?//[^)"\']*', f.read_text())]
    assert not wrong, wrong
    tutorials = [link for f, found in pages.items() if f.parent.name == 'tutorials' for link in found.loaded]
    assert len({link for link in tutorials if link.endswith('.png')}) > 15

def where(site, name):
    "The page of a public name"
    index = (site/'docs/reference/index.html').read_text()
    found = re.search(rf'href="(\w+\.html)#fastai_actstats\.all\.{name}"', index)
    assert found, name
    return found[1]

def entry(site, name):
    "What is said of a public name"
    page = (site/'docs/reference'/where(site, name)).read_text()
    return page[page.index(f'id="fastai_actstats.all.{name}"'):]

def test_every_public_name_is_there_with_its_parameters(site):
    for name in everything.__all__:
        signature = re.sub(r'<.*?>', '', entry(site, name).partition('</dt>')[0])
        for parameter in inspect.signature(getattr(everything, name)).parameters:
            assert re.search(rf'\b{parameter}\b', signature), (name, parameter, signature)
    assert 'Number of bins, or a' in entry(site, 'ActStats')  # what stands beside a parameter in the code
    assert re.search(r'\*\*thresholds.*?Rule → dict of its thresholds', entry(site, 'diagnose'), re.S)
    assert 'What is wrong, in a word' in entry(site, 'Finding')  # beside the field of a tuple
    assert 'NaN and Inf' in entry(site, 'Record')  # beside a property in one line
    assert 'before_fit' not in entry(site, 'ActStats')  # fastai calls it

def test_public_names_come_in_the_order_of_a_users_needs_and_modules_apart(site):
    order = [where(site, name) for name in ('ActStats', 'diagnose', 'Record', 'compare', 'SaveRecord', 'preflight',
                                            'show_feature_maps')]
    index = (site/'docs/reference/index.html').read_text()
    body = index[index.index('<article'):]
    assert order == list(dict.fromkeys(re.findall(r'href="(\w+\.html)#fastai_actstats\.all', body)))
    home, inside = ((site/name).read_text() for name in ('index.html', 'docs/inside.html'))
    menu = re.findall(r'href="([\w/]+\.html)"', home[home.index('<header'):home.index('<main')])
    assert menu.index('docs/reference/index.html') < menu.index('docs/inside.html')
    assert not [link for link in menu if link.startswith('nbs/')]
    package = ROOT/'fastai_actstats'
    there = ['.'.join(f.relative_to(package).with_suffix('').parts) for f in package.rglob('*.py')
             if f.stem not in ('__init__', '__main__', '_modidx')]
    listed = [re.sub(r'\d+_', '', link).replace('/', '.') for link in
              re.findall(r'href="\.\./nbs/([\w/]+)\.html"', inside[inside.index('<article'):])]
    assert set(there) <= set(listed)

def test_it_can_be_searched_without_a_network(site):
    index = (site/'searchindex.js').read_text()
    titles = json.loads(index[index.index('{'):index.rindex('}') + 1])['titles']
    assert {'Batchnorm against none', 'Watch', 'core.ring'} <= {title.replace('\u200b', '') for title in titles}
    for word in ('colour', 'saverecord', 'wasserstein'): assert word in index, word
    assert '<script src="searchindex.js"' in (site/'search.html').read_text()  # no fetch, which wants a server

def test_notebooks_are_shown_as_they_were_kept_without_what_is_for_nbdev(site):
    page = (site/'nbs/tutorials/preflight.html').read_text()
    assert 'report.checked.outcome ==' not in re.sub('<.*?>', '', page)  # hidden in the notebook
    assert not [f for f in site.rglob('nbs/**/*.html') if '#| ' in re.sub('<.*?>', '', f.read_text())]

def test_a_broken_link_ends_the_build(tmp_path):
    (tmp_path/'index.md').write_text('# Home\n\n[nowhere](tutorials/nowhere.md)\n')
    done = build(tmp_path, tmp_path/'out')
    assert done.returncode != 0 and 'tutorials/nowhere.md' in done.stderr, done.stderr

CHECK = """<!doctype html><body><script>
function* words(inside) {  // names in the navigation, in titles and in tables of names
  for (const at of inside.querySelectorAll('nav a, h1, td:first-child code, dt .sig-name')) {
    const texts = inside.createTreeWalker(at, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/\\w[\\w]+/g)) {
      const range = inside.createRange();
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      yield [word[0], new Set([...range.getClientRects()].map(r => Math.round(r.top))).size];
    }
  }
}
async function look() {
  const wrong = [];
  for (const [page, width] of PAGES) {
    const frame = document.createElement('iframe');
    frame.width = width; frame.height = 800; frame.style.border = 0;
    await new Promise(done => { frame.onload = done; frame.src = page; document.body.append(frame); });
    const inside = frame.contentDocument, say = what => wrong.push(`${page} at ${width}: ${what}`);
    for (const img of inside.images) {
      img.loading = 'eager';
      if (!img.complete) await new Promise(done => { img.onload = img.onerror = done; });
      if (!img.naturalWidth) say(img.src);
    }
    if (!inside.querySelector('h1')) say('no title');
    if (inside.documentElement.scrollWidth > width) say(`${inside.documentElement.scrollWidth} wide`);
    for (const [word, lines] of words(inside)) if (lines > 1) say(`${word} is broken`);
    for (const asked of frame.contentWindow.performance.getEntriesByType('resource'))
      if (!asked.name.startsWith(location.origin)) say(`asks for ${asked.name}`);
    frame.remove();
  }
  fetch('looked?' + encodeURIComponent(PAGES.length + ' looks, wrong: ' + JSON.stringify(wrong.slice(0, 40))));
}
look();
</script>"""

def test_a_browser_shows_every_page_and_picture_on_a_phone_too(site, pages, tmp_path):
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not browser:
        pytest.skip('no chromium here: pages and pictures were checked as files only (apt-get install chromium)')
    missing, said, looked = [], [], threading.Event()
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
        def do_GET(self):
            if not self.path.startswith('/looked?'): return super().do_GET()
            said.append(unquote(self.path.split('?')[1]))
            self.send_response(204)
            self.end_headers()
            looked.set()
        def send_error(self, code, *args):
            if not self.path.endswith('favicon.ico'): missing.append(self.path)
            super().send_error(code, *args)
    names = [str(f.relative_to(site)) for f in pages]
    looks = [(name, 390) for name in names] + [(name, 1280) for name in names if not name.startswith('nbs/')]
    (site/'look.html').write_text(CHECK.replace('<script>', f'<script>const PAGES = {json.dumps(looks)};'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
                   f'--user-data-dir={tmp_path}', '--remote-debugging-port=0', '--window-size=1400,1000',
                   f'http://127.0.0.1:{server.server_port}/look.html']
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        looked.wait(180)
        running.kill()
        running.wait()
        server.shutdown()
    assert said == [f'{len(looks)} looks, wrong: []'] and not missing, (said, missing)
