"""Seeds brought together: an effect of a setting is told from their noise, by a test that holds what it promises."""
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import CrossEntropyLossFlat, Learner, set_seed
from fastai.callback import schedule  # noqa: F401, `fit_one_cycle`
from fastai.callback.progress import ProgressCallback
from scipy.stats import f_oneway

from fastai_actstats.all import ActStats, Bins, Record, compare
from fastai_actstats.analysis.align import halved
from fastai_actstats.analysis.groups import group_effect, group_runs, known_of, least_p, splits
from fastai_actstats.core.ring import Ring
from fastai_actstats.core.summary import Summary
from fastai_actstats.demo import reference_cnn
from fastai_actstats.plots.overview import representatives

BINS = Bins(40, -5, 5)

def run(seed=0, scale=1., steps=20, layers=2, capacity=4096, n=60, **kwargs):
    rng, ring = np.random.default_rng(seed), Ring(capacity, layers, BINS)
    for i in range(steps):
        row = [Summary.of(torch.from_numpy(rng.normal(size=n)*scale).float(), BINS).rows for _ in range(layers)]
        ring.push(torch.stack(row), i, epoch=i//10)
    return Record(*ring.read(), [str(i) for i in range(layers)], BINS, **kwargs)

def seeds(n=5, **settings): return {f'{name}-{i}': run(seed=100*k + i, scale=scale, layers=3)
                                    for k, (name, scale) in enumerate(settings.items()) for i in range(n)}

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

# groups
def test_groups_come_from_metadata_names_and_dicts():
    made = lambda lr: dict(run='x', optimiser=dict(type='Adam', wd=lr/10), fits=[dict(epochs=1, lr=lr)])
    runs = {name: run(made=made(lr)) for name, lr in (('b', .1), ('a', .02), ('c', .1))}
    assert group_runs(runs, 'lr') == {'lr=0.02': ['a'], 'lr=0.1': ['b', 'c']}  # ascending
    assert list(group_runs(runs, 'wd')) == ['wd=0.002', 'wd=0.01']
    assert list(group_runs(runs, 'type')) == ['type=Adam']
    assert group_runs(runs, lambda name: name > 'a') == {'False': ['a'], 'True': ['b', 'c']}
    assert group_runs(runs, dict(a='x', b='y', c='x')) == {'y': ['b'], 'x': ['a', 'c']}
    cycle = run(made=dict(fits=[dict(lr=dict(first=.001, highest=.06, last=1e-6))]), notes=dict(name='me', seed=3))
    assert known_of(cycle) == {'lr first': .001, 'lr highest': .06, 'lr last': 1e-6, 'seed': 3}
    assert [*group_runs(dict(a=cycle), 'lr'), *group_runs(dict(a=cycle), 'seed')] == ['lr=0.06', 'seed=3']

@pytest.mark.parametrize('by, error, why', [
    ('momentum', ValueError, "by='momentum' is not known of run 'a': epochs, lr"),
    (dict(a=1), ValueError, 'by= has no group for b; it has a'),
    (3, TypeError, "by=3 must be a name in the metadata, a function of a run's name, or a dict")])
def test_groups_that_can_not_be_made_are_refused(by, error, why):
    runs = {name: run(made=dict(fits=[dict(epochs=1, lr=.1)])) for name in 'ab'}
    with pytest.raises(error, match=why): compare(runs, by=by)
    two = dict(fits=[dict(lr=.1), dict(lr=.2)])
    with pytest.raises(ValueError, match="by='lr' is more than one thing in run 'a': fit 0 lr, fit 1 lr"):
        compare(dict.fromkeys('ab', run(made=two)), by='lr')

# the test
def test_splits_are_all_there_are():
    labels = np.repeat([0, 1], 5)
    every = splits(labels)
    assert len(every) == 252 == len({tuple(s) for s in every}) and (every.sum(1) == 5).all()
    three = splits(np.array([2, 0, 1, 1, 0]))
    assert len({tuple(s) for s in three}) == 30 and all(np.bincount(s).tolist() == [2, 2, 1] for s in three)
    drawn = splits(np.repeat([0, 1], 15), most=400)
    assert len(drawn) == 400 and (drawn[0] == np.repeat([0, 1], 15)).all() and (drawn.sum(1) == 15).all()
    assert [round(least_p(n), 4) for n in ([5, 5], [3, 3], [4, 5], [2, 2, 2])] == [.0079, .1, .0079, .0667]

def test_share_and_p_are_those_of_the_textbook():
    "Eta squared from scipy's F, p counted split by split"
    rng, labels = np.random.default_rng(1), np.repeat([0, 1], 4)
    x = rng.normal(size=(8, 6)) + np.outer(labels, [0, 0, 0, 1, 3, 9])
    def shares(split):
        F = f_oneway(x[split == 0], x[split == 1]).statistic
        return F/(F + 6)  # of 1 and 6 degrees of freedom
    share, p = group_effect(x, labels)
    np.testing.assert_allclose(share, shares(labels))
    every = [np.isin(np.arange(8), chosen).astype(int) for chosen in combinations(range(8), 4)]
    largest = np.array([shares(split).max() for split in every])
    np.testing.assert_allclose(p, [(largest >= s - 1e-9).mean() for s in share])
    assert p[5] == 2/70 and p[0] > .5

def test_the_family_wise_error_is_what_is_promised():
    "Of 300 experiments without an effect, in 100 measurements that hang together, 5 in a hundred have a mark"
    rng, marked = np.random.default_rng(0), 0
    for _ in range(300):
        x = rng.standard_t(3, size=(10, 100)).cumsum(1)
        marked += (group_effect(x, np.repeat([0, 1], 5))[1] <= .05).any()
    assert 4 <= marked <= 27  # 15 expected, standard deviation 3.8

def test_what_has_no_value_or_no_variance_has_no_p():
    x = np.random.default_rng(0).normal(size=(6, 4))
    x[0, 0], x[:, 1], x[:, 2] = np.nan, .1, .1 + np.arange(6)*1e-17
    share, p = group_effect(x, np.repeat([0, 1], 3))
    assert np.isnan(share).tolist() == np.isnan(p).tolist() == [True, True, True, False]

def test_groups_too_small_to_be_told_apart_are_said_to_be():
    both = compare(seeds(3, a=1., b=4.), by=lambda name: name[0])
    with pytest.warns(UserWarning, match='groups of 3, 3 runs: p is never below 0.1, so that nothing can be marked'):
        assert not both.effects().marked.any()
    assert 'too few runs for a test' in [t.get_text() for t in both.plot_stats().legends[0].texts]
    for by in (None, lambda name: 'all'):
        with pytest.raises(ValueError, match='one group has nothing to be tested against'):
            compare(seeds(3, a=1., b=4.), by=by).effects()

# on real digits
@pytest.fixture(scope='module')
def sweep(dls, tmp_path_factory):
    "Ten seeds of one learning rate, five of another, in files"
    folder = tmp_path_factory.mktemp('sweep')
    for seed in range(15):
        for dl in dls: dl.rng.seed(seed)
        set_seed(seed)
        learn = Learner(dls, reference_cnn(), loss_func=CrossEntropyLossFlat(), cbs=ActStats())
        learn.remove_cb(ProgressCallback)
        learn.logger = lambda *args: None
        learn.fit_one_cycle(1, .06 if seed < 10 else .01)
        learn.act_stats.record.save(folder/f'seed{seed:02}.npz')
    return folder

@pytest.mark.slow
def test_a_setting_is_marked_and_its_seeds_are_not(sweep):
    ten = sorted(sweep.glob('*.npz'))[5:]
    both = compare(ten, by='lr')
    assert {name: len(runs) for name, runs in both.groups.items()} == {'lr=0.01': 5, 'lr=0.06': 5}
    found = both.effects()
    marked = found[found.marked]
    assert len(marked) >= 9 and {('4.0', 'std'), ('3.0', 'std')} <= {*zip(marked.layer, marked.stat)}
    assert (both.effects(most=100).since.dropna() > 0).all()  # step by step: before the first update nothing differs
    top = marked.iloc[0]
    means = {group: np.mean([getattr(both.runs[r].between(top.step, top.step + 1).merged(), top['stat'])
                             [0, both.layers.index(top.layer)] for r in runs]) for group, runs in both.groups.items()}
    assert all(np.isclose(top[group], mean, rtol=1e-6) for group, mean in means.items())
    assert np.isclose(top['between'], np.ptp(list(means.values()))) and top['between'] > 5*top['within']
    # the seeds' noise: groups that have nothing to do with the setting
    crossed = {run: i % 2 for i, run in enumerate(both.runs)}
    assert not compare(both.whole, by=crossed).effects().marked.any()

@pytest.mark.slow
def test_runs_of_one_setting_are_not_marked(sweep):
    base, marks = compare(sorted(sweep.glob('*.npz'))[:10]), []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(list(base.runs))
        split = compare(base.whole, by={name: i < 5 for i, name in enumerate(order)})
        marks.append(bool(split.effects().marked.any()))
    assert sum(marks) <= 1

@pytest.mark.slow
def test_a_sweep_is_compared_by_its_files(sweep):
    both = compare(str(sweep/'*.npz'), by='lr')
    assert list(both.runs) == [f'seed{i:02}' for i in range(15)]
    table = both.table().set_index('run')
    assert len(table) == 15 and {'group', 'loss', 'findings', 'lr highest'} <= {*table}
    rec = Record.load(sweep/'seed03.npz').train.run
    assert np.isclose(table.loss['seed03'], rec.mean[:, rec.layers.index('loss')].mean(), rtol=.02)
    drawn = both.overview().axes[0].collections[0].get_array().reshape(15, -1)
    order = table.loss.sort_values().index
    np.testing.assert_allclose(drawn, [both.runs[run].epoch(-1).merged().std[0] for run in order])
    assert len(both.table(each='layer')) == 15*9

# many
def test_bands_are_mean_and_range_of_a_group():
    both = compare(seeds(4, a=1., b=2.), by=lambda name: name[0])
    fig = both.plot_stats('std')
    ax = fig.axes[1]
    assert [t.get_text() for t in fig.legends[0].texts][:2] == ['a', 'b']
    std = np.stack([both.runs[run].std[:, 1] for run in both.groups['b']])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), std.mean(0))
    band = ax.collections[1].get_paths()[0].get_extents()
    assert np.allclose([band.ymin, band.ymax], [std.min(), std.max()])
    bars = ax.collections[2].get_segments()  # an effect at every step
    assert len(bars) == 20 and both.effects('std').since.tolist() == [0, 0, 0]

def test_the_representative_is_the_run_nearest_to_its_group():
    runs = {f'r{i}': run(seed=i, scale=s, n=400) for i, s in enumerate((1., 1.5, 3., .2, .25, .9, .1))}
    both = compare(runs, by=lambda name: 'wide' if name < 'r3' else 'narrow')
    assert representatives(both) == dict(wide='r1', narrow='r4')
    heads = [ax.get_title() for ax in both.color_dim().axes[:2]]
    assert heads == ['wide: r1', 'narrow: r4']
    assert len(both.color_dim(runs='all').axes) == 7*2 + 1
    with pytest.raises(ValueError, match="runs='representatives' takes groups"):
        compare(runs).color_dim(runs='representatives')
    with pytest.raises(ValueError, match="runs='some' must be None or one of"): both.color_dim(runs='some')

def test_a_report_says_in_which_runs_a_finding_is():
    runs = seeds(2, ok=1., bad=np.nan)
    both = compare(runs, by=lambda name: name[:-2])
    report = both.report()
    own = {name: {(f.layer, f.finding) for f in rec.report()} for name, rec in runs.items()}
    assert len(report) == len(set().union(*own.values())) > 0
    for row in report.itertuples():
        assert row.runs == [name for name in runs if (row.layer, row.finding) in own[name]]
        assert row.runs + row[6] == [*row.runs, *(name for name in runs if name not in row.runs)]
    assert {*report.bad} == {'2 of 2'} and {*report.ok} == {'0 of 2'}
    same = compare(dict.fromkeys('ab', run())).report()
    assert isinstance(same, pd.DataFrame) and list(same)[:4] == ['layer', 'finding', 'severity', 'since']

def test_columns_of_many_runs_are_few_and_still_begin_together():
    recs = {f'{i}': run(seed=i, steps=steps, n=8) for i, steps in enumerate((700, 1000, 300, 256, 900, 1024, 600))}
    many = compare(recs, by=lambda name: name > '2')
    assert max(map(len, many.runs.values())) <= 256 and {*many.runs['0'].columns['steps'][:-1]} == {4}
    assert all(rec.count.sum() == recs[name].count.sum() for name, rec in many.runs.items())
    assert {name: [f[:3] for f in found] for name, found in many.findings.items()} == \
           {name: [f[:3] for f in rec.report()] for name, rec in recs.items()}  # of all columns
    assert len(many.effects()) == 6
    few = compare({name: recs[name] for name in '01'})
    assert len(few.runs['1']) == 1000 and halved(recs['3'], 256) is recs['3']
    assert len(compare(recs, most=10**6).runs['5']) == 1024

def test_patterns_stand_for_files_and_files_of_one_name_are_called_by_their_folders(tmp_path):
    for folder in 'xy':
        (tmp_path/folder).mkdir()
        run().save(tmp_path/folder/'run.npz')
    assert list(compare(str(tmp_path/'*'/'run.npz')).runs) == ['x/run', 'y/run']
    assert list(compare(tmp_path/'*'/'run.npz', other=run()).runs) == ['x/run', 'y/run', 'other']
    (tmp_path/'a[1].npz').write_bytes((tmp_path/'x'/'run.npz').read_bytes())
    assert list(compare(tmp_path/'a[1].npz', tmp_path/'x'/'run.npz').runs) == ['a[1]', 'run']
    with pytest.raises(FileNotFoundError, match=r"none\*.npz' stands for no file"): compare(str(tmp_path/'none*.npz'))
    with pytest.raises(ValueError, match='1 run to compare'): compare(str(tmp_path/'x'/'*.npz'))

@pytest.mark.slow
@pytest.mark.parametrize('n', [2, 7, 30])
def test_pictures_are_legible_from_two_to_thirty_runs(n):
    from drawn import wrong
    recs = {f'run{i:02}': run(seed=i, n=20, scale=1 + .1*(i % 2)) for i in range(n)}
    for both in (compare(recs), compare(recs, by=lambda name: int(name[3:]) % 2)):
        for fig in (both.color_dim(), both.color_dim(runs='all'), both.plot_stats(), both.overview()):
            assert wrong(fig) == ([], []) and max(fig.get_size_inches()) < 26
            plt.close(fig)
