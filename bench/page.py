"""The benchmark page of the documentation, from the measured files: `python bench/page.py` writes `docs/benchmarks.md` and its pictures"""
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
    where = f"`{made['command']}`, {made['date']}: {m['cpu']}, {m['threads']} threads, torch {m['torch']}, " + (m['gpu'] or 'no GPU')
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
    sns.lineplot(long[long.kind == 'normal'].dropna(), x='size', y='ns a value', hue='way', style='way', markers=True, palette='colorblind', ax=ax)
    ax.set(xscale='log', yscale='log', xlabel='values in the tensor', ylabel='nanoseconds a value', title='Reducing one tensor (normal values)')
    sns.despine(ax=ax)
    table = df[['size', 'kind', 'ours, ns a value', 'ours, eager, ns a value', 'fastai, ns a value', 'sum, ns a value', 'fastai / ours', 'ours / sum']]
    return where, save(fig, 'bench_reduction'), table

def training():
    df, where = load('training')
    long = df.melt('model', ['ours adds, ms', 'fastai adds, ms'], 'way', 'ms added a step')
    fig, axs = plt.subplots(1, len(df), figsize=(9, 3.4), layout='constrained')
    for ax, (model, rows) in zip(axs, long.groupby('model', sort=False)):
        sns.barplot(rows.assign(way=rows.way.str.split().str[0]), x='way', y='ms added a step', hue='way', palette='colorblind', ax=ax)
        plain = df.loc[df.model == model, 'plain, ms a step'].item()
        ax.set(title=f'{model}\n(plain step {plain:.0f} ms)', xlabel='')
        sns.despine(ax=ax)
    return where, save(fig, 'bench_training'), df[[c for c in df if 'quartiles' not in c]]

def scaling():
    df, where = load('scaling')
    some = df[(df.layers == 5) & (df.capacity == 1024)].melt('steps', ['ring, MiB', 'fastai, MiB', 'every activation, MiB'], 'way', 'MiB')
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    sns.lineplot(some, x='steps', y='MiB', hue='way', style='way', markers=True, palette='colorblind', ax=left)
    left.set(xscale='log', yscale='log', title='Memory, five layers')
    sns.lineplot(df[df.layers == 5], x='steps', y='us a step', hue='capacity', style='capacity', markers=True, palette='colorblind', ax=right)
    right.set(xscale='log', ylim=(0, None), ylabel='microseconds a step', title='Time a step, five layers')
    for ax in (left, right): sns.despine(ax=ax)
    return where, save(fig, 'bench_scaling'), df

def observers():
    df, where = load('observers')
    fig, ax = plt.subplots(figsize=(7.5, 3), layout='constrained')
    sns.barplot(df[df['watched by'] != 'none'], y='watched by', x='ms added a step', color=sns.color_palette('colorblind')[0], ax=ax)
    ax.set(ylabel='', xlabel='milliseconds of processor time added to a step')
    sns.despine(ax=ax)
    return where, save(fig, 'bench_observers'), df

TEXT = {
    reduction: ("The reduction alone", "Per value of one tensor: ours with the CPU kernel and in plain torch, what fastai's "
                "`ActivationStats(with_hist=True)` computes, and one `torch.sum`, which reads the tensor once and does nothing else."),
    training: ("Whole training steps", "Epochs in alternation. ResNet-18 at 64×64 and the transformer train on random inputs. What a watcher adds is the "
               "difference of two medians, so a busy machine shows in it."),
    scaling: ("Steps, layers, capacity", "A recorder alone, with tensors of 128 values, so that only what is around the reduction is seen. From the first "
              "merge on, a step costs its merging with the open column."),
    observers: ("The observing callbacks", "Reference CNN, processor time of one thread, epochs in alternation: what each callback adds, and all four together.")}

def main():
    IMAGES.mkdir(exist_ok=True)
    parts = ['# Benchmarks', 'Measured on the machines named, on the CPU; the CUDA kernel is tested in triton\'s interpreter only, so there is no GPU figure here.']
    for make, (title, text) in TEXT.items():
        where, picture, table = make()
        parts += [f'## {title}', text, picture, markdown(table), where]
    (ROOT/'docs'/'benchmarks.md').write_text('\n\n'.join(parts) + '\n')

if __name__ == '__main__': main()
