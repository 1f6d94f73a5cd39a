"""The picture of a run's page in the documentation: `python docs/page_picture.py` writes `docs/images/page.png`

Takes playwright and a chromium on the path. The run is the demo's network without batchnorm."""
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from fastai_actstats.demo import train
from fastai_actstats.plots import page as pages  # noqa: F401, gives records `to_html`

ROOT = Path(__file__).resolve().parent.parent
DRAWN = """async () => {
  while (!charts.every(c => !c.visible || c.u)) await new Promise(done => setTimeout(done, 20));
}"""

def main():
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        rec = train(False, epochs=3, lr=.1).act_stats.record
        file = rec.to_html(Path(folder)/'run.html', title='digits, no batchnorm')
        chromium = p.chromium.launch(executable_path=browser, args=['--no-sandbox'])
        page = chromium.new_page(viewport=dict(width=1250, height=1500))
        page.goto(file.as_uri())
        panel = page.locator('.panel').first
        box = panel.bounding_box()
        page.evaluate(DRAWN)
        page.mouse.move(box['x'] + 420, box['y'] + 60)
        page.evaluate(DRAWN)
        page.screenshot(path=ROOT/'docs'/'images'/'page.png')
        chromium.close()

if __name__ == '__main__': main()
