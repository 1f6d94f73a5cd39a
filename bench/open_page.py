"""What a page of a run weighs, and how fast a browser opens it and moves in it: `python bench/open_page.py`

Takes playwright and a chromium on the path. Zooming and scrolling are timed as a reader does it, from one drawn frame
to the next. Writes `bench/results/open_page.json`, from which `bench/page.py` makes the documentation's table."""
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import write
from playwright.sync_api import sync_playwright

from fastai_actstats.all import Bins, Record
from fastai_actstats.core.columns import COLUMN
from fastai_actstats.core.summary import Summary
from fastai_actstats.plots import page as pages  # noqa: F401, gives records `to_html`

FRAMES = """async act => {
  const times = [], frame = () => new Promise(requestAnimationFrame);
  let last = await frame();
  for (let i = 0; i < 60; i++) {
    act === 'zoom' ? show_view(i*5, whole.max - i*8) : act === 'scroll' ? scrollBy(0, 250) : pan(i % 2 ? .02 : -.02);
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return times.sort((a, b) => a - b);
}"""

DRAWN = """async () => {
  const there = () => { const seen = charts.filter(c => c.visible); return seen.length > 1 && seen.every(c => c.u); };
  while (!there()) await new Promise(requestAnimationFrame);
}"""

def drifting(layers, columns, values=4096):
    "A record as a training leaves it: distributions that widen and move, 80 bins"
    bins, rng = Bins(), np.random.RandomState(0)
    rows = []
    for t in range(columns):
        width = .5 + 2*np.arange(layers)/layers + t/columns
        x = rng.randn(layers, values)*width[:, None] + np.sin(t/99 + np.arange(layers))[:, None]
        rows.append(torch.stack([Summary.of(o, bins).rows for o in torch.from_numpy(x).float()]))
    c = np.zeros(columns, COLUMN)
    c['first'] = c['last'] = np.arange(columns)
    c['epoch'] = c['last_epoch'] = np.arange(columns)//128
    c['steps'] = 1
    names = [f'encoder.blocks.{i//4}.conv{i % 4}' for i in range(layers)]
    return Record(torch.stack(rows), c, names, bins, info={n: dict(type='Conv2d', shape=(64, 8, 8)) for n in names})

def opened(browser, file):
    "Seconds until the page is drawn, and milliseconds a frame"
    page = browser.new_page(viewport=dict(width=1300, height=900))
    start = time.perf_counter()
    page.goto(file.as_uri())
    page.evaluate(DRAWN)
    took = time.perf_counter() - start
    page.evaluate("document.getElementById('layer-3').scrollIntoView()")
    page.evaluate(DRAWN)
    row = {'opens, s': took}
    for act in ('zoom', 'pan', 'scroll'):
        times = page.evaluate(FRAMES, act)
        row |= {f'{act}, ms a frame': times[len(times)//2], f'{act}, slowest of 60': times[-1]}
    page.close()
    return row

def measure():
    rows, browser = [], shutil.which('chromium') or shutil.which('google-chrome')
    with sync_playwright() as p, tempfile.TemporaryDirectory() as folder:
        chromium = p.chromium.launch(executable_path=browser, args=['--no-sandbox'])
        for layers, columns in ((20, 1024), (100, 1024)):
            rec, file = drifting(layers, columns), Path(folder)/f'{layers}.html'
            start = time.perf_counter()
            rec.to_html(file)
            written = time.perf_counter() - start
            text = file.read_text()
            held = sum(map(len, re.findall('<script type="text/plain".*?</script>', text)))
            best = min((opened(chromium, file) for _ in range(3)), key=lambda r: r['opens, s'])
            size = {'MB': len(text)/1e6, 'MB without data': (len(text) - held)/1e6, 'written, s': written}
            rows.append(dict(layers=layers, columns=columns, **size, **best))
        for row in rows: row['chromium'] = chromium.version
        chromium.close()
    return rows

if __name__ == '__main__': write('open_page', measure())
