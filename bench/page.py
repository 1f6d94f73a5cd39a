"""The benchmark page of the documentation, from the measured files.

`python bench/page.py` writes `docs/benchmarks.md` and its pictures"""
import json
from pathlib import Path

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT/'docs'/'images'

def load(name):
    made = json.loads((ROOT/'bench'/'results'/f'{name}.json').read_text())
    m = made['machine']
    versions = ', '.join(f'{name} {v}' for name, v in dict(torch=m['torch'], **made['versions']).items())
    on = f"{m['cpu']}, {m['threads']} threads, {m['gpu'] or 'no GPU'}; {versions}"
    where = f"`{made['command']}`, {made['date']}: {on}"
    return pd.DataFrame(made['rows']), where

def markdown(df):
    cell = lambda v: f'{v:.3g}' if isinstance(v, float) else str(v)
    rows = [df.columns, ['---']*df.shape[1], *([cell(v) for v in row] for row in df.itertuples(index=False))]
    return '\n'.join(f"| {' | '.join(row)} |" for row in rows)

def save(fig, name):
    fig.savefig(IMAGES/f'{name}.png', dpi=90)
    plt.close(fig)
    return f'![{name.replace("_", " ")}](images/{name}.png)'

def reduction():
    df, where = load('reduction')
    long = df.melt(['size', 'kind'], [c for c in df if c.endswith('ns a value')], 'way', 'ns a value')
    long['way'] = long['way'].str.removesuffix(', ns a value')
    fig, ax = plt.subplots(figsize=(7.5, 4), layout='constrained')
    sns.lineplot(long[long.kind == 'normal'].dropna(), x='size', y='ns a value', hue='way', style='way', markers=True,
                 palette='colorblind', ax=ax)
    ax.set(xscale='log', yscale='log', xlabel='values in the tensor', ylabel='nanoseconds a value',
           title='Reducing one tensor (normal values)')
    sns.despine(ax=ax)
    table = df[['size', 'kind', 'ours, ns a value', 'ours, eager, ns a value', 'fastai, ns a value', 'sum, ns a value',
                'fastai / ours', 'fastai / ours, quartiles', 'ours / sum', 'ours / sum, quartiles']]
    return where, save(fig, 'bench_reduction'), table

def training():
    df, where = load('training')
    fig, axs = plt.subplots(1, df.model.nunique(), figsize=(9, 3.4), layout='constrained')
    for ax, (model, rows) in zip(axs, df.groupby('model', sort=False)):
        sns.barplot(rows[rows['watched by'].isin(['sum', 'ours', 'fastai'])], order=['sum', 'ours', 'fastai'],
                    x='watched by', y='adds, ms', hue='watched by', palette='colorblind', ax=ax)
        ax.set(title=f"{model}\n(plain step {rows['ms a step'].iloc[0]:.0f} ms)", xlabel='', ylabel='ms added a step')
        sns.despine(ax=ax)
    return where, save(fig, 'bench_training'), df.astype(object).fillna('')

def scaling():
    df, where = load('scaling')
    df['way'] = df.way.where(df.way != 'ours', 'ours, ' + df.capacity.astype(str) + ' columns')
    some, fig = df[df.steps.isin([100, 1000, 10_000, 100_000])], plt.figure(figsize=(9, 3.8), layout='constrained')
    axs = fig.subplots(1, 3)
    for ax, value, label in zip(axs, ('MiB', 'us a step', 'read, s'),
                                ('memory, MiB', 'microseconds a step', 'seconds to read all')):
        sns.lineplot(some, x='steps', y=value, hue='way', style='way', markers=True, palette='colorblind', ax=ax,
                     legend=ax is axs[0])
        ax.set(xscale='log', yscale='log', ylabel='', title=label)
        sns.despine(ax=ax)
    handles, labels = axs[0].get_legend_handles_labels()
    axs[0].get_legend().remove()
    fig.legend(handles, labels, loc='outside lower center', ncols=4, frameon=False)
    return where, save(fig, 'bench_scaling'), df.drop(columns='capacity')

def observers():
    df, where = load('observers')
    fig, ax = plt.subplots(figsize=(7.5, 3), layout='constrained')
    sns.barplot(df[df['watched by'] != 'none'], y='watched by', x='adds, ms',
                color=sns.color_palette('colorblind')[0], ax=ax)
    ax.set(ylabel='', xlabel='milliseconds of processor time added to a step')
    sns.despine(ax=ax)
    return where, save(fig, 'bench_observers'), df

def table(name):
    "A benchmark without a picture"
    def make():
        df, where = load(name)
        return where, '', df
    return make

TEXT = {
    reduction: (
        "The reduction alone",
        "Per value of one tensor: ours with the CPU kernel and in plain torch, what fastai's "
        "`ActivationStats(with_hist=True)` computes, and one `torch.sum`, which reads the tensor once and does nothing "
        "else."),
    training: (
        "Whole training steps",
        "Epochs in alternation. ResNet-18 at 64×64 and the transformer train on random inputs. What a watcher adds is "
        "the median, over the rounds, of its step less the plain step of the same round; `sum` is a hook that reads "
        "each activation once with `torch.sum` and does nothing else. The machine is shared, so this difference of two "
        "long times wavers, for a ResNet-18 by several hundredths of its step from run to run, also that of `sum`. The "
        "last columns are steadier, and leave out only what a watcher does to the caches of others: the time spent in "
        "a watcher's own hooks and events, as a share of the rest of the step. neural-observatory records statistics "
        "of activations and torchinstruments what it records by default, at every step."),
    table('composer_monitor'): (
        "Beside Composer's ActivationMonitor",
        "Composer has a training loop of its own and needs an older torch, so each watcher is compared with its own "
        "loop without one: the reference CNN, every step recorded."),
    scaling: (
        "Steps, layers, capacity",
        "A recorder alone, five layers of 128 values each, so that only what is around the reduction is seen: against "
        "fastai's callback, and against keeping every activation. Memory is by how much a process grew."),
    observers: (
        "The observing callbacks",
        "Reference CNN, processor time of one thread, epochs in alternation: what each callback adds, and all four "
        "together."),
    table('saving'): (
        "Nothing lost",
        "A record of many columns, written by `SaveRecord` once in 60 seconds: time in its own events in the thread "
        "that trains, and processor time of the thread that compresses and writes. What `CatchBatch` takes beside "
        "`ActStats`: processor time of its own events, and what it adds to epochs in alternation. The machine was "
        "busy with other work, which makes all of these times several times longer. 200 "
        "processes that were killed at random moments left no damaged file: `ACTSTATS_KILLS=200 python -m pytest -k "
        "sigkill tests/callbacks/test_save.py`."),
    table('against'): (
        "Against an earlier commit",
        "Two trees in one run, a process each, in turn: microseconds of processor time of one thread for a step of the "
        "reference CNN or a call, and the ratio of this tree to the other, round by round. The command says which."),
    table('moments'): (
        "What the third and fourth moments cost",
        "The same against the commit before they came, reductions only, on a machine busy with other work. The loop of "
        "the moments alone, over a slice in the first-level cache, took 0.17 ns a value instead of 0.13, of some 0.9."),
    table('open_page'): (
        "A page of a run",
        "What `to_html` writes of 20 and 100 layers by 1,024 columns, 80 bins, and what headless Chromium makes of it: "
        "seconds until all that is in sight is drawn, milliseconds from one frame to the next while it is zoomed, "
        "moved and scrolled, 60 frames each (16.7 is every frame of the screen)."),
    table('many'): (
        "Many runs",
        "Thirty files of 50 layers by 1,024 columns, 80 bins, in three groups of ten: read, compared and drawn in a "
        "process of its own. Files are read one after the other, and 256 columns of each are kept."),
    table('breakdown'): (
        "Where the time goes",
        "The loops of the CPU kernel over a slice in the first-level cache, and a training step of the reference CNN "
        "with `ActStats`, in one thread. Counting takes one increment of memory a value, which is about what the "
        "processor can do in a cycle; the other loops are vectors."),
    table('instructions'): (
        "The CUDA kernel, counted",
        "What stands in the loop of the compiled kernel, for two generations of GPU; nothing here ran on one. A "
        "multiprocessor starts 128 instructions of single threads in a cycle.")}
START = ("Measured on the machines named, on the CPU. The CUDA kernel is tested in triton's interpreter and compiled "
         "for real GPUs, but has not run on one: there is no time measured on a GPU here.")

def main():
    IMAGES.mkdir(exist_ok=True)
    parts = ['# Benchmarks', START]
    for make, (title, text) in TEXT.items():
        where, picture, rows = make()
        parts += filter(None, [f'## {title}', text, picture, markdown(rows), where])
    (ROOT/'docs'/'benchmarks.md').write_text('\n\n'.join(parts) + '\n')

if __name__ == '__main__': main()
