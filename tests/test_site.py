"""The documentation site: built by one command, every link and picture there, every public name with its parameters."""
import functools
import http.server
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from helpers import ROOT

import fastai_actstats.all as everything

pytestmark = pytest.mark.slow


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

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('docs')/'site'
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT/'docs'/'build.py'), str(out)], capture_output=True,
                          text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return out

@pytest.fixture(scope='module')
def pages(site): return {f: Links(f.read_text()) for f in site.rglob('*.html') if f.name != '404.html'}

def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site, pages):
    assert len(pages) > 25
    wrong = []
    for page, found in pages.items():
        for link in found.links + found.loaded:
            url = urlsplit(link)
            if url.scheme in ('http', 'https', 'mailto'):
                if link in found.loaded: wrong.append(f'{page.name} loads {link}')
                continue
            if url.scheme == 'data': continue
            target = (page.parent/unquote(url.path)).resolve() if url.path else page
            target = target/'index.html' if target.is_dir() else target
            if not target.exists(): wrong.append(f'{page.name}: {link}')
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                wrong.append(f'{page.name}: {link}')
    assert not wrong, wrong
    assert len(list(site.rglob('tutorials/pictures/*.png'))) > 15

def entry(site, module, name):
    "What a module's page says of a name"
    page = (site/'reference'/f'{module}.html').read_text()
    return page[page.index(f'id="{name}"'):]

def test_every_public_name_is_there_with_its_parameters(site):
    index = (site/'reference'/'index.html').read_text()
    for name in everything.__all__:
        where = re.search(rf'href="([\w.]+)\.html#{name}"', index)
        assert where, name
        section = entry(site, where[1], name)
        for parameter in inspect.signature(getattr(everything, name)).parameters:
            assert f'{parameter}</code>' in section, (name, parameter)
    where = re.search(r'href="([\w.]+)\.html#ActStats"', index)[1]
    assert 'Number of bins, or a' in entry(site, where, 'ActStats')  # what stands beside a parameter in the code

def test_modules_are_grouped_by_folder_and_those_of_the_inside_stand_apart(site):
    home, index = ((site/name).read_text() for name in ('index.html', 'reference/index.html'))
    menu = re.findall(r'href="reference/([\w.]+)\.html"', home[home.rindex('href="reference/index.html"'):])[1:]
    package = ROOT/'fastai_actstats'
    there = ['.'.join(f.relative_to(package).with_suffix('').parts) for f in package.rglob('*.py')
             if f.stem not in ('__init__', '__main__', '_modidx', 'all')]
    assert sorted(menu) == sorted(there)
    public = set(re.findall(r'href="([\w.]+)\.html#', index))
    assert set(menu[:len(public)]) == public
    order = ['kernels', 'core', 'analysis', 'plots', 'callbacks', 'callbacks.checks', 'features', '']
    for part in (menu[:len(public)], menu[len(public):]):
        folders = [n.rpartition('.')[0] for n in part]
        assert folders == sorted(folders, key=order.index)

def test_it_can_be_searched_without_a_network(site):
    found = json.loads((site/'search'/'search_index.json').read_text())
    texts = ' '.join(doc['title'] + doc['text'] for doc in found['docs'])
    for words in ('colourful dimension', 'Batchnorm against none', 'SaveRecord', 'total variation'):
        assert words in texts, words
    assert list(site.glob('assets/javascripts/workers/search.*.js'))

CHECK = """<!doctype html><body><script>
const pages = %s;
async function look() {
  const wrong = [];
  for (const page of pages) {
    const frame = document.createElement('iframe');
    frame.width = 1200; frame.height = 800;
    await new Promise(done => { frame.onload = done; frame.src = page; document.body.append(frame); });
    const inside = frame.contentDocument;
    for (const img of inside.images) {
      if (!img.complete) await new Promise(done => { img.onload = img.onerror = done; });
      if (!img.naturalWidth) wrong.push(page + ': ' + img.src);
    }
    if (!inside.querySelector('h1')) wrong.push(page + ': no title');
    frame.remove();
  }
  fetch('looked?' + encodeURIComponent(pages.length + ' pages, wrong: ' + JSON.stringify(wrong)));
}
look();
</script>"""

def test_a_browser_shows_every_page_and_picture(site, pages, tmp_path):
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
    (site/'look.html').write_text(CHECK % json.dumps([str(f.relative_to(site)) for f in pages]))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
                   f'--user-data-dir={tmp_path}', '--remote-debugging-port=0',
                   f'http://127.0.0.1:{server.server_port}/look.html']
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        looked.wait(180)
        running.kill()
        running.wait()
        server.shutdown()
    assert said == [f'{len(pages)} pages, wrong: []'] and not missing, (said, missing)

def test_a_broken_link_ends_the_build(tmp_path):
    code = """import sys; sys.path.insert(0, 'docs')
import build
def pages(folder):
    folder.mkdir()
    (folder/'extra.css').touch()
    (folder/'index.md').write_text('# Home\\n\\n[nowhere](tutorials/nowhere.md)\\n')
    return [{'Home': 'index.md'}]
build.write_pages = pages
build.build(sys.argv[1])"""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, str(tmp_path)], capture_output=True,
                          text=True, cwd=ROOT)
    assert done.returncode != 0 and "'tutorials/nowhere.md', but the target is not found" in done.stderr, done.stderr
