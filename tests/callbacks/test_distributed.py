"""Several processes, one record: real ones under torchrun, gloo on the CPU. Their side is distributed_worker.py."""
import os
import pickle
import signal
import socket
import subprocess
import sys
import time

import distributed_worker as worker
import numpy as np
import pytest
import torch
from fastai.callback.training import GradientAccumulation
from helpers import ROOT

from fastai_actstats.all import ActStats, CatchBatch, DeadUnits, GradStats, WeightStats
from fastai_actstats.core.summary import Summary
from fastai_actstats.kernels.eager import MAX, MEAN, MIN

pytestmark = pytest.mark.slow

WORKER, LIMIT = ROOT/'tests'/'distributed_worker.py', 240

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def environment(**more):
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    return dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path, **{k: str(v) for k, v in more.items()})

def torchrun(*args): return [sys.executable, '-m', 'torch.distributed.run', *map(str, args)]

def run(commands, out, expect=0):
    "Run the commands side by side, and give what their processes left: (scenario, rank) → result"
    out.mkdir(parents=True, exist_ok=True)
    logs = [open(out/f'{i}.log', 'w') for i in range(len(commands))]
    started = [subprocess.Popen(c, env=env, cwd=out, stdout=log, stderr=log, start_new_session=True)
               for (c, env), log in zip(commands, logs)]
    end = time.monotonic() + LIMIT
    try: codes = [p.wait(max(1, end - time.monotonic())) for p in started]
    finally:
        for p in started:
            if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
        for log in logs: log.close()
    said = '\n'.join((out/f'{i}.log').read_text()[-3000:] for i in range(len(commands)))
    if expect is not None: assert codes == [expect]*len(codes), said
    return {(f.name.split('.')[0], int(f.suffix[1:])): pickle.loads(f.read_bytes()) for f in out.iterdir()
            if f.is_file() and f.suffix != '.log'}

def launched(out, size, *scenarios, expect=0):
    return run([(torchrun('--standalone', '--nproc-per-node', size, WORKER, out, *scenarios), environment())],
               out, expect)

def plain(out, size, *scenarios, expect=None):
    "Without torchrun, as a batch system starts them"
    env = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=size)
    return run([([sys.executable, str(WORKER), str(out), *scenarios], environment(RANK=r, **env)) for r in range(size)],
               out, expect)

def of(results, scenario):
    return [results[key] for key in sorted(k for k in results if k[0] == scenario)]

def alike(a, b):
    "The same counts, and the same moments but for rounding"
    np.testing.assert_array_equal(a.columns, b.columns)
    assert a.layers == b.layers
    a, b = a.summary.rows, b.summary.rows
    assert torch.equal(a[..., :MEAN], b[..., :MEAN]) and torch.equal(a[..., [MIN, MAX]], b[..., [MIN, MAX]])
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)

def equals_what_was_kept(rec, results):
    "Is each training column that of all values that the ranks kept at its step?"
    for layer in worker.LAYERS:
        one = rec.train[layer]
        for t in range(len(one)):
            parts = [r['kept'][t][layer].flatten() for r in results if len(r['kept']) > t]
            x = torch.cat(parts)
            wide = x.double().numpy()
            np.testing.assert_allclose([one.mean[t, 0], one.std[t, 0]], [wide.mean(), wide.std(ddof=1)],
                                       rtol=1e-6, atol=1e-9)
            assert (one.min[t, 0], one.max[t, 0], one.count[t, 0]) == (wide.min(), wide.max(), wide.size)
            assert torch.equal(one.summary.counts[t, 0], Summary.of(x, rec.bins).counts)
            assert one.near_zero[t, 0] == (x.abs() <= 0.05).double().mean()

def gradients_equal_what_was_kept(results):
    "The gradient of each rank's loss by the number of ranks that are averaged: kept by plain hooks on the tensors"
    size, grads = len(results), results[0]['grad']
    assert len(grads) == len(results[0]['grads'])
    for layer in worker.LAYERS:
        found, = [n for n in grads.layers if n.endswith(layer)]
        for t in range(len(grads)):
            want = Summary.of(torch.cat([r['grads'][t][layer].flatten() for r in results])/size, grads.bins, 'eager')
            one = grads[found].summary[t, 0]
            assert torch.equal(one.counts, want.counts) and torch.equal(one.count, want.count)
            np.testing.assert_allclose([one.mean, one.std, one.min, one.max], [want.mean, want.std, want.min, want.max],
                                       rtol=1e-6, atol=1e-12)

def gradients_and_units_equal_what_was_kept(results):
    "Averaged gradients are those of each rank's loss by the number of ranks; a unit is dead where it is on all of them"
    grads, units = results[0]['grad'], results[0]['units']
    for r in results[1:]:
        alike(r['grad'], grads)
        assert (r['units'].hist == units.hist).all() and (r['units'].alive_steps == units.alive_steps).all()
    gradients_equal_what_was_kept(results)
    for layer in worker.RELUS:
        alive = torch.stack([sum((r['kept'][t][layer] > 0).sum((0, 2, 3)) for r in results) for t in range(12)]).numpy()
        assert (units[layer].hist[..., 0] == alive.reshape(2, 6, -1).sum(1)).all()
        for unit, steps in enumerate((alive > 0).T):
            at, silent = np.flatnonzero(steps), [e for e in (0, 1) if not steps[6*e:6*e + 6].any()]
            died = max(at[at < 6*silent[0]], default=-1) + 1 if silent else -1
            woke = min(at[at >= 6*silent[-1] + 6], default=-1) if silent else -1
            assert [f[unit] for f in units.fates(layer)] == [died, woke, len(silent) > 0]

def shards_equal_whole_parameters(results):
    "Merged over the ranks, each value is counted once: what torch gathers, summarised in one place"
    for r in results:
        for name, which in (('weights', 'weights'), ('weight_grads', 'grads'), ('updates', 'updates')):
            rec = r[name]
            assert rec.ranks == tuple(range(len(results))) and len(rec) == 3
            assert len(rec.layers) == len(r['parameters'][0]['weights'])
            for t, kept in enumerate(r['parameters']):
                for n, want in kept[which].items():
                    one = rec[n].summary[t, 0]
                    assert torch.equal(one.counts, want.counts) and torch.equal(one.count, want.count)
                    np.testing.assert_allclose([one.mean, one.min, one.max], [want.mean, want.min, want.max],
                                               rtol=1e-6, atol=1e-9)
                    np.testing.assert_allclose(one.std, want.std, rtol=1e-6, atol=1e-12)
    for n, p in worker.model().named_parameters(): assert results[0]['weights'].info[n]['shape'] == tuple(p.shape)

def sharded_equals_one_process(results):
    "FSDP changes what is computed by rounding only"
    size, n = len(results), 3
    stats, grads, weights = ActStats(), GradStats(), WeightStats()
    order = [j for i in range(n) for rank in range(size)
             for j in worker.batches(rank, size, n)[i*worker.BS:(i + 1)*worker.BS]]
    cbs = [stats, grads, weights, GradientAccumulation(size*worker.BS)]
    worker.learner(worker.model(), worker.loaders(order), cbs, opt_func=worker.sgd).fit(1, worker.LR)
    r = results[0]
    for a, b in ((r['record'], stats.record), (r['grad'], grads.record), (r['weights'], weights.record),
                 (r['weight_grads'], weights.grads), (r['updates'], weights.updates)):
        np.testing.assert_array_equal(a.columns, b.columns)
        assert a.layers == b.layers and (a.count == b.count).all() and (a.nonfinite == b.nonfinite).all()
        # gradients of biases before a batchnorm are rounding errors
        np.testing.assert_allclose(a.std, b.std, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(a.mean, b.mean, atol=1e-3*np.nanmax(b.std), rtol=1e-3)
        assert np.abs(a.hist - b.hist).sum() <= .01*b.hist.sum()

def a_rule_that_raises_on_one(results):
    "its rank still takes part: all end together when another one finds something"
    *others, last = results
    assert {r['steps'] for r in results} == {6} and results[0]['reason']
    assert last['warned'] == ["StopOnTrouble looks no more: 'oops'"]
    assert 'ended after 6 steps: picky' in results[0]['warned'][0]
    assert all(not r['warned'] for r in others[1:])

def a_rule_that_hangs_on_one(results):
    "longer than the limit: it is named, the fit goes on to its end, and the next one is ended by all"
    assert {r['steps'] for r in results} == {8} and all(r['seconds'] < 1.5 + 5 for r in results)
    assert sum((r['warned'] for r in results), []) == [
        f"StopOnTrouble does not end this fit: rank {len(results) - 1} did not answer, "
        "and the ranks end together or not at all"]
    assert all(r['again']['steps'] == 2 and 'ended after 2 steps' in r['again']['warned'][0] for r in results)

def stop_on_one(results):
    "it can end no fit, and says so before training; nobody waits"
    assert {r['steps'] for r in results} == {8} and all(r['ranks'] == tuple(range(len(results))) for r in results)
    without = 'rank 1' if len(results) == 2 else 'ranks ' + ', '.join(map(str, range(1, len(results))))
    assert sum((r['warned'] for r in results), []) == [
        f"StopOnTrouble does not end this fit: it is not on {without}, and the ranks end together or not at all"]

def readers_on_one(results):
    "nobody waits for the others at the end of an epoch, and all are merged when the fit ends, in the second one too"
    everybody = tuple(range(len(results)))
    for i, r in enumerate(results):
        assert r['first']['ranks'] == r['ranks'] == [everybody]*2
        for o in (r['first'], r['again']):
            assert len(o['warned']) == (i == 0) and all('such as SaveRecord' in w and 'rank' in w for w in o['warned'])
    assert torch.equal(agree(results).summary.counts, sum(r['local'].summary.counts for r in results))

def callbacks_missing_on_one(results):
    "one wait of one limit at most, one warning, and the next fit in which all have them is merged"
    size, last = len(results), len(results) - 1
    for i, r in enumerate(results):
        some, none, full, late, again = r['fits']
        everybody, others = tuple(range(size)), tuple(range(last))
        assert all(o['steps'] == 8 for o in r['fits'])
        assert some['ranks'] == dict(act_stats=everybody) | ({} if i == last else dict(grad_stats=others))
        assert none['ranks'] == ({} if i == last else dict(act_stats=others, grad_stats=others))
        assert none['seconds'] < 2*2
        assert full['ranks'] == dict(act_stats=everybody, grad_stats=everybody)
        assert again['ranks'] == dict(act_stats=everybody)
        assert late['ranks'] == dict(act_stats=(last,) if i == last else others)
        assert some['warned'] == (
            [f"the callback 'grad_stats' is not on rank {last}: the record will not have their part"] if i == 0 else [])
        assert none['warned'] == ([f'rank {last} did not begin the fit within 2 s: it goes on without']
                                  if i == 0 else [])
        assert not full['warned'] + again['warned']
        gone = 'rank 0' if size == 2 else 'ranks ' + ', '.join(map(str, others))
        assert late['warned'] == ([f'rank {last} did not begin the fit within 0.5 s: it goes on without'] if i == 0 else
                                  [f'{gone} did not begin the fit within 0.5 s: it goes on without']
                                  if i == last else [])

SEVERAL = dict(rule_raises=a_rule_that_raises_on_one, rule_hangs=a_rule_that_hangs_on_one, lone_stop=stop_on_one,
               lone_readers=readers_on_one, lone_stats=callbacks_missing_on_one)

def equals_one_process(results):
    "gradients of parts of a batch, averaged or accumulated, are the same numbers: so the whole run is"
    rec, size = agree(results), len(results)
    stats, grads, units = ActStats(phase='both', bins=40, range=(-4, 4)), GradStats(), DeadUnits()
    order = [j for i in range(6) for rank in range(size)
             for j in worker.batches(rank, size, 6)[i*worker.BS:(i + 1)*worker.BS]]
    learn = worker.learner(worker.model(), worker.loaders(order),
                           [stats, grads, units, GradientAccumulation(size*worker.BS)])
    learn.fit(2, worker.LR)
    alike(rec.train, stats.record.train)
    for r in results:
        alike(r['grad'], grads.record)
        assert (r['units'].hist == units.record.hist).all() and (r['units'].count == units.record.count).all()
        for n in units.record.channels:
            assert (r['units'].dead(n) == units.record.dead(n)).all()
            assert np.array_equal(r['units'].fates(n), units.record.fates(n))
    assert len(rec.valid) == 4 and (rec.valid.count == size*stats.record.valid.count).all()

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp('two')
    return launched(folder, 2, 'equal', 'each', 'local', 'two_fits', 'shown', 'uneven', 'never',
                    'too_late', 'trainer', 'fsdp',
                    'inside', 'caught', 'shares', *SEVERAL) | dict(folder=folder)

def agree(results):
    "All ranks hold the same record, to the last bit"
    first = results[0]['record']
    for r in results[1:]:
        assert torch.equal(r['record'].summary.rows, first.summary.rows)
        assert (r['record'].columns == first.columns).all()
    assert first.ranks == tuple(range(len(results)))
    return first

@pytest.mark.xdist_group('distributed')
class TestTwo:
    def test_equals_one_process_that_sees_the_same_batches(self, two):
        equals_one_process(of(two, 'equal'))

    def test_equals_what_was_kept(self, two):
        results = of(two, 'equal')
        equals_what_was_kept(agree(results), results)
        gradients_and_units_equal_what_was_kept(results)

    def test_invisible(self, two):
        for r in of(two, 'equal'): assert r['same'] and not r['warned']

    def test_the_run_itself(self, two, record_row):
        results = of(two, 'equal')
        run, local = agree(results).run, [r['local'].run for r in results]
        assert results[1]['record'].run == run and run.layers == ['loss', 'lr', 'input', 'output', 'target']
        np.testing.assert_allclose(run['loss'].mean, sum(o['loss'].mean for o in local)/2, rtol=1e-12)
        assert (run.count == sum(o.count for o in local)).all()
        record_row('training', 'rec.run of two processes: the loss is their mean', 'yes', 'yes', 'yes')

    def test_each(self, two):
        results = of(two, 'each')
        rec = agree(results)
        for r in results:
            assert list(r['by_rank']) == [0, 1] and len(r['df']) == 2*len(rec)*len(rec.layers)
            assert torch.equal(sum(o.summary.counts for o in r['by_rank'].values()), rec.summary.counts)
            assert (r['by_rank'][1]['0.0'].std > 2*r['by_rank'][0]['0.0'].std).all()
            assert r['distance'].loc['0.0', 1] > .3

    def test_local(self, two):
        for rank, r in enumerate(of(two, 'local')):
            assert r['record'].ranks == (rank,) and r['record'] is r['local']

    def test_accumulation_and_bf16_over_two_fits(self, two):
        results = of(two, 'two_fits')
        rec = agree(results)
        merged = sum(r['local'].summary.counts for r in results)
        assert torch.equal(rec.summary.counts, merged) and rec.fits.tolist()[-1] == 1
        assert rec.columns['steps'].tolist() == [2]*6
        assert results[0]['saved'] == ['0.npz']  # written by the first rank only
        for rank, r in enumerate(results):
            totals = [o[1] for o in r['seen'] if isinstance(o[0], tuple)]
            assert totals[1] == 2*totals[0] and totals[2] == 3*totals[0] and r['seen'][0] == (rank,)
            assert r['seen'][1][0] == (0, 1)

    def test_live_view_loggers_and_files_show_all_ranks(self, two):
        results = of(two, 'shown')
        rec = agree(results)
        (first, second), total = results, int(rec.count.sum())
        assert first['meetings'] == second['meetings'] == 3 and not first['warned'] + second['warned']
        assert first['files'] == second['files'] == ['0.png', 'run.npz'] and not second['drawn']
        assert second['got'] is None
        merged = [n for ranks, n in first['drawn'] if ranks == (0, 1)]
        alone = [n for ranks, n in first['drawn'] if ranks == (0,)]
        assert sorted(set(merged)) == [total//3, 2*total//3, total] and 2*max(alone) <= total and len(alone) >= 3
        assert sum(name.startswith('activations/') for name, _ in first['got']) == 3*len(rec.layers)*len(rec)
        for t, step in enumerate(rec.columns['last']):
            for i, layer in enumerate(rec.layers):
                assert first['got'][f'activations/{layer}/mean', step] == rec.mean[t, i]

    def test_a_rank_with_fewer_batches(self, two):
        "its k-th batch of an epoch goes with the others' k-th, though it counts other steps"
        results = of(two, 'uneven')
        rec = agree(results)
        train = rec.train
        assert train.steps.tolist() == [[i, i] for i in range(24)]
        assert train.epochs.tolist() == [i//8 for i in range(24)]
        both = train.count[:, 0] == 2*train.count[5, 0]
        assert both.tolist() == [i % 8 < 5 for i in range(24)]
        for r, n in zip(results, (5, 8)):
            assert len(r['kept']) == 3*n
            r['kept'] = [o for e in range(3) for o in [*r['kept'][e*n:(e + 1)*n],
                                                       *[{l: torch.zeros(0) for l in worker.LAYERS}]*(8 - n)]]
        equals_what_was_kept(rec, results)
        assert rec.valid.epochs.tolist() == [0]*3 + [1]*3 + [2]*3
        assert rec.valid.steps[:, 0].tolist() == [7]*3 + [15]*3 + [23]*3
        assert results[0]['warned'] == results[1]['warned'] == []

    def test_a_layer_that_ran_on_one_rank_only(self, two):
        results = of(two, 'never')
        rec = agree(results)
        some = rec.count[:, rec.layers.index('some')]
        assert (some == results[0]['local']['some'].count[:, 0]).all() and (some > 0).all()
        assert not rec['never'].count.any() and np.isnan(rec['never'].mean).all()
        assert (rec['stem'].count == 2*some[:, None]).all() and not results[0]['warned']

    def test_one_that_comes_too_late_is_named_and_back_in_the_next_fit(self, two):
        first, last = of(two, 'too_late')
        assert first['record'].ranks == (0,) and last['record'].ranks == (1,) and last['record'] is last['local']
        assert first['warned'] == ['activations: rank 1 did not answer within 0.5 s: what it recorded is missing']
        assert len(last['warned']) == 1
        assert 'it came more than 0.5 s after the first rank, and rank 0 merged without it' in last['warned'][0]
        assert first['again'] == last['again'] == (0, 1)
        assert first['files'] == last['files'] == ['run.npz', 'run.rank1.npz']

    def test_fastais_distributed_trainer(self, two):
        "hooks survive the wrapping and the conversion of batchnorm; names are the user's"
        results = of(two, 'trainer')
        rec = agree(results)
        assert rec.layers == ['0.0', '0.1', '1.0', '1.1', '2.0', '2.1', '3.0', '3.1', '4.0']
        assert rec.info['0.1']['type'] == 'SyncBatchNorm'
        assert torch.equal(rec.summary.counts, sum(r['local'].summary.counts for r in results)) and len(rec) == 8
        assert [r['hooks'] for r in results] == [0, 0] and (rec.count > 0).all()

    def test_fsdp2(self, two):
        results = of(two, 'fsdp')
        rec = agree(results)
        assert rec.layers == ['0.0', '0.1', '1.0', '1.1', '2.0', '2.1', '3.0', '3.1', '4.0'] and (rec.count > 0).all()
        assert torch.equal(rec.summary.counts, sum(r['local'].summary.counts for r in results))

    def test_fsdp2_has_the_gradients_and_parameters_of_one_process(self, two, record_row):
        results = of(two, 'fsdp')
        for r in results: alike(r['grad'], results[0]['grad'])
        gradients_equal_what_was_kept(results)
        shards_equal_whole_parameters(results)
        sharded_equals_one_process(results)
        assert not [w for r in results for w in r['warned'] if not w.startswith('FSDP2-wrapped')]  # torch's own
        record_row('training', '`fully_shard`, two processes: activations, gradients, shards of parameters',
                   'yes, as one process', '-', '-')

    def test_ddp_inside_a_module_has_the_gradients_of_one_process(self, two, record_row):
        gradients_equal_what_was_kept(of(two, 'inside'))
        record_row('training', '`DistributedDataParallel` inside another module: gradients',
                   'yes, as plain hooks', '-', '-')

    def test_a_batch_that_one_rank_caught(self, two, record_row):
        "is written with the rank; with stop=True all ranks end after the same step"
        for goes_on, ends in (r['fits'] for r in of(two, 'caught')):
            assert goes_on['files'] == ends['files'] == ['caught.rank1.npz'] and goes_on['steps'] == 24
            assert ends['steps'] == 12 and not goes_on['reason']  # after step 9: they ask each other every 4 here
        (_, first), (_, second) = (r['fits'] for r in of(two, 'caught'))
        assert first['reason'] == 'rank 1 caught a batch' and 'step 9: ' in second['reason']
        assert not first['warned'] and len(second['warned']) == 1 and 'caught.rank1.npz' in second['warned'][0]
        for stop in False, True:
            caught = CatchBatch.load(two['folder']/f'caught {stop}'/'caught.rank1.npz')
            assert caught.rank == 1 and caught.step == 9 and caught.batch.xb[0].abs().max() > 1e3
            at = worker.batches(1, 2, 8)[worker.BS:2*worker.BS]
            want = torch.stack([worker.digits()[j][0] for j in at])*1e4
            assert torch.equal(caught.batch.xb[0], want)
        record_row('training', 'CatchBatch on two processes: trouble of one, with stop=True', 'yes, with its rank', '-',
                   'yes, all end after the same step')

    def test_each_rank_writes_its_share_amid_an_epoch(self, two, record_row):
        "they are merged to what all have so far, and gone when the fit is over"
        results = of(two, 'shares')
        rec = agree(results)
        for rank, r in enumerate(results):
            assert r['amid'] == ['run.npz', 'run.rank0.npz', 'run.rank1.npz'] and r['after'] == ['run.npz']
            share = r['shares'][rank]
            assert share.ranks == (rank,) and 6 < len(share) <= 9
            assert torch.equal(share.rows, r['recorded'].rows[:len(share)])  # to the last bit
            both = [o.between(0, 6) for o in r['shares'].values()]
            assert r['whole'].ranks == (0, 1)
            assert torch.equal(r['whole'].between(0, 6).summary.counts, sum(o.summary.counts for o in both))
            alike(r['whole'].between(0, 6), rec.between(0, 6))
        record_row('endings', 'SaveRecord on two processes, amid an epoch', 'yes, each its share', '-',
                   'yes, the shares go with the fit')

    @pytest.mark.parametrize('name', SEVERAL)
    def test_no_process_dies_or_waits_twice(self, two, name, record_row):
        SEVERAL[name](of(two, name))
        record_row('endings', 'two processes, ' + SEVERAL[name].__name__.replace('_', ' '),
                   'yes, and who is missing is named', 'yes, no process dies', '-')

def test_four_processes_and_one_is_killed(tmp_path):
    results = launched(tmp_path, 4, 'equal', 'fsdp', *SEVERAL, 'killed', expect=None)
    for name, check in SEVERAL.items(): check(of(results, name))
    sharded = of(results, 'fsdp')
    gradients_equal_what_was_kept(sharded)
    shards_equal_whole_parameters(sharded)
    equal = of(results, 'equal')
    assert len(equal) == 4 and all(r['same'] and not r['warned'] for r in equal)
    equals_what_was_kept(agree(equal), equal)
    gradients_and_units_equal_what_was_kept(equal)
    killed = of(results, 'killed')
    assert len(killed) == 3  # who was killed left nothing
    for rank, r in enumerate(killed):
        assert r['alone'].ranks == (rank,) and r['alone'].steps[-1].tolist() == [5, 5]
        assert r['record'].ranks == (0, 1, 2)
        assert torch.equal(r['record'].summary.counts, sum(o['alone'].summary.counts for o in killed))
        assert r['seconds'] < 60
    warned = sum((r['warned'] for r in killed), [])
    assert warned == ['activations: rank 3 did not answer within 12 s: what it recorded is missing']

def test_a_rank_gone_before_the_meeting(tmp_path):
    first, = of(plain(tmp_path, 2, 'gone'), 'gone')
    assert first['record'].ranks == (0,) and len(first['record']) == 4
    assert first['warned'] == ['activations: rank 1 did not answer within 1 s: what it recorded is missing']

def test_the_rank_that_holds_the_store_is_killed(tmp_path):
    "then there is nobody to ask, and each one keeps its own"
    r, = of(plain(tmp_path, 2, 'killed_first'), 'killed_first')
    assert r['record'].ranks == (1,) and len(r['record']) == 6 and r['seconds'] < 40
    assert len(r['warned']) == 1 and 'the record holds what rank 1 recorded, and no other' in r['warned'][0]

def test_two_hosts_and_ten_seconds_late(tmp_path):
    "two launchers with addresses of their own, through the rendezvous"
    port = free_port()
    hosts = [(torchrun('--nnodes', 2, '--nproc-per-node', 1, '--rdzv-backend', 'c10d', '--rdzv-endpoint',
                       f'127.0.0.2:{port}', '--rdzv-id', 'test', '--local-addr', address, WORKER, tmp_path, 'equal',
                       'late'), environment(HOST=address))
             for address in ('127.0.0.2', '127.0.0.3')]
    results = run(hosts, tmp_path)
    equal, late = of(results, 'equal'), of(results, 'late')
    assert {r['host'] for r in equal} == {'127.0.0.2', '127.0.0.3'}
    equals_what_was_kept(agree(equal), equal)
    rec = agree(late)
    assert torch.equal(rec.summary.counts, sum(r['local'].summary.counts for r in late))
    assert all(not r['warned'] and r['seconds'] > 10 for r in late)
