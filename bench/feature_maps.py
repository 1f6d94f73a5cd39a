"""Peak memory of writing every feature map of a ResNet-50, against the script that keeps them all.

    python bench/feature_maps.py

Each way runs in a process of its own, after one forward pass and one small export that load every library. Measured
is the highest resident memory of the process (VmHWM, reset before the run) above what it held before, less that of
the forward pass alone. malloc is told to give large blocks back at once, in all processes alike. Linux only."""
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
WAYS = {'forward': 'the forward pass alone', 'keep': 'keep every layer\'s output, draw nothing',
        'iterate': 'for maps in feature_maps(...)',
        'save': 'save_feature_maps(...)'}
SIZE, SEED = 224, 42

def status(name):
    line = next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(name))
    return int(line.split()[1])*1024

def peak(f):
    "Bytes of resident memory that `f` needs at its highest, and seconds"
    gc.collect()
    Path('/proc/self/clear_refs').write_text('5')
    before, start = status('VmRSS'), time.perf_counter()
    f()
    return status('VmHWM') - before, time.perf_counter() - start

def measure(way):
    import torch
    from torch import nn
    from torchvision.models import resnet50

    from fastai_actstats.features.maps import feature_maps, layer_table
    from fastai_actstats.features.pages import save_feature_maps
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model, x = resnet50(weights=None).eval(), torch.randn(1, 3, SIZE, SIZE)
    def leaf(name, module): return not list(module.children())
    def forward():
        with torch.no_grad(): model(x)
    def keep():
        kept = {}
        def hook(name):
            # ReLUs work in place
            def store(module, args, output): kept.setdefault(name, []).append(output.detach().clone())
            return store
        handles = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if leaf(n, m)]
        forward()
        for h in handles: h.remove()
        return kept
    def iterate():
        for one in feature_maps(model, x, leaf): one.maps.sum()
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with tempfile.TemporaryDirectory() as folder:
        save_feature_maps(small, x[..., :16, :16], folder, progress=False)
        def save(): save_feature_maps(model, x, folder, progress=False)
        for _ in range(2): forward()
        base, _ = peak(forward)
        table = layer_table(model, x, leaf)
        memory, seconds = peak(dict(forward=forward, keep=keep, iterate=iterate, save=save)[way])
        files = list(Path(folder).rglob('*'))
        written = sum(f.stat().st_size for f in files)
    largest = max(e.numel()*e.element_size() for e in outputs(model, x))
    return dict(way=way, peak_bytes=memory, forward_bytes=base, above_forward_bytes=max(memory - base, 0),
                seconds=round(seconds, 2), largest_output_bytes=largest,
                all_outputs_bytes=int(table['MiB'].sum()*2**20), layers=len(table), calls=int(table['calls'].sum()),
                written_bytes=written if way == 'save' else 0)

def outputs(model, x):
    "Each leaf module's output, one at a time"
    from fastai_actstats.features.maps import feature_maps
    for one in feature_maps(model, x, lambda name, module: not list(module.children())): yield one.maps

def plot(results, ax=None):
    "Bars of memory above the forward pass, and the limit"
    import matplotlib.pyplot as plt
    ways = [r for r in results['ways'] if r['way'] != 'forward']
    if ax is None: fig, ax = plt.subplots(figsize=(8, 2.6), layout='constrained')
    limit = 2*ways[0]['largest_output_bytes']/1e6
    values = [r['above_forward_bytes']/1e6 for r in ways][::-1]
    ax.barh([WAYS[r['way']] for r in ways][::-1], values, color=['C0', 'C0', '0.6'])
    for i, v in enumerate(values): ax.text(max(v, limit) + 1.5, i, f'{v:.1f} MB', va='center')
    ax.axvline(limit, color='C3', ls='--', lw=1)
    ax.text(limit + 1.5, -.42, f"twice the largest layer's output: {limit:.1f} MB", color='C3', va='center',
            size='small')
    ax.set(xlabel="peak memory above the model's own forward pass (MB)",
           xlim=(0, 1.15*max(r['above_forward_bytes'] for r in ways)/1e6))
    ax.set_title(f"All maps of a ResNet-50 at {SIZE} px, {ways[0]['calls']} outputs of {ways[0]['layers']} layers",
                 fontsize='medium')
    ax.spines[['top', 'right']].set_visible(False)
    return ax.figure

def main():
    if sys.argv[1:]: return print(json.dumps(measure(sys.argv[1])))
    env = dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536', OMP_NUM_THREADS='1')
    ways = []
    for way in WAYS:
        done = subprocess.run([sys.executable, __file__, way], env=env, capture_output=True, text=True)
        if done.returncode: raise SystemExit(f"{way} failed:\n{done.stderr}")
        ways.append(json.loads(done.stdout.splitlines()[-1]))
        above, seconds = ways[-1]['above_forward_bytes']/1e6, ways[-1]['seconds']
        print(f"{WAYS[way]:45} {above:7.1f} MB above the forward pass, {seconds:6.1f} s")
    import torch
    results = dict(model='torchvision.models.resnet50(weights=None)', size=SIZE, seed=SEED,
                   torch=str(torch.__version__),
                   python=platform.python_version(), threads=1, device='cpu', ways=ways)
    (HERE/'results').mkdir(exist_ok=True)
    (HERE/'results'/'feature_maps.json').write_text(json.dumps(results, indent=1) + '\n')
    import matplotlib
    matplotlib.use('agg')
    plot(results).savefig(HERE/'results'/'feature_maps.png', dpi=90)
    limit = 2*ways[-1]['largest_output_bytes']
    print(f"limit: {limit/1e6:.1f} MB, twice the largest layer's output")
    raise SystemExit(0 if ways[-1]['above_forward_bytes'] <= limit else 1)

if __name__ == '__main__': main()
