"""`SaveRecord` and the files that are there already: none is replaced by less."""
import os
import warnings

import numpy as np
import pytest
from helpers import StopAt, make_record, tiny

from fastai_actstats.all import ActStats, GradStats, Record, SaveRecord


def beside(path, new):
    return pytest.warns(UserWarning,
                        match=f'{path} holds what this run does not: it stays, and this run is written to {new}')

def test_a_run_that_is_resumed_after_a_kill_keeps_the_old_file(tmp_path, record_row):
    first = tiny(tmp_path, ActStats(), SaveRecord('k.npz'), StopAt(5, 2, RuntimeError('power cut')))
    with pytest.raises(RuntimeError): first.fit(8)
    old = (tmp_path/'k.npz').read_bytes()
    assert len(Record.load(tmp_path/'k.npz')) == 22  # up to the batch that was cut
    again = tiny(tmp_path, ActStats(), SaveRecord('k.npz'))
    with beside(tmp_path/'k.npz', tmp_path/'k.1.npz') as found: again.fit(8, start_epoch=5)
    assert len(found) == 1 and (tmp_path/'k.npz').read_bytes() == old
    assert sorted(os.listdir(tmp_path)) == ['k.1.npz', 'k.npz']
    assert Record.load(tmp_path/'k.1.npz') == again.act_stats.record and len(again.act_stats.record) == 12
    record_row('endings', 'resumed after a kill, with the same file name', 'yes, in two files', '-', '-')

def test_a_cell_that_is_run_again_writes_beside_even_if_its_run_is_longer(tmp_path):
    kept = []
    for i, epochs in enumerate((1, 1, 3, 1)):
        learn = tiny(tmp_path, ActStats(), SaveRecord())
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            learn.fit(epochs)
        assert len(found) == (i > 0)
        kept.append(learn.act_stats.record)
    files = [tmp_path/f for f in ('run.npz', 'run.1.npz', 'run.2.npz', 'run.3.npz')]
    assert [Record.load(f) == r for f, r in zip(files, kept)] == [True]*4

def test_the_same_run_goes_on_in_its_file(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(1)
    learn.fit(2)  # the same callback
    learn.remove_cb(learn.save_record)
    learn.fit(1, cbs=SaveRecord())  # another one on the same learner
    assert os.listdir(tmp_path) == ['run.npz'] and Record.load(tmp_path/'run.npz') == learn.act_stats.record
    learn.act_stats.record.epoch(0).save(tmp_path/'part.npz')  # less, of the same run
    learn.fit(1, cbs=SaveRecord('part.npz'))
    assert Record.load(tmp_path/'part.npz') == learn.act_stats.record

def test_a_record_that_was_reset_is_another_run(tmp_path):
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    learn.fit(1)
    old = learn.act_stats.record
    learn.act_stats.reset()
    with beside(tmp_path/'run.npz', tmp_path/'run.1.npz'): learn.fit(2)
    assert Record.load(tmp_path/'run.npz') == old and len(Record.load(tmp_path/'run.1.npz')) == 8

def test_a_ring_that_forgets_goes_on_in_its_file_and_spares_one_that_remembers(tmp_path):
    learn = tiny(tmp_path, ActStats(capacity=6, when_full='overwrite'), SaveRecord())
    learn.fit(3)
    assert os.listdir(tmp_path) == ['run.npz'] and Record.load(tmp_path/'run.npz') == learn.act_stats.record
    learn.remove_cb(learn.save_record)
    with beside(tmp_path/'run.npz', tmp_path/'run.1.npz'): learn.fit(1, cbs=SaveRecord())

def test_fewer_layers_or_no_validation_is_less(tmp_path):
    learn = tiny(tmp_path, ActStats(phase='both'), SaveRecord())
    learn.fit(1)
    whole, r = learn.act_stats.record, learn.act_stats.accumulator
    class Part(ActStats):
        @property
        def record(self): return self.part(r.record)
    for i, part in enumerate((lambda rec: rec[0], lambda rec: rec.train, lambda rec: rec.between(2, 9))):
        cb = Part()
        cb.part = part
        two = tiny(tmp_path, cb)
        two.save_record = SaveRecord()
        two.add_cb(two.save_record)
        two.save_record.learn = two
        with beside(tmp_path/'run.npz', tmp_path/f'run.{i + 1}.npz'): two.save_record.write()
    assert Record.load(tmp_path/'run.npz') == whole

@pytest.mark.parametrize('content', ['poem', 'array', 'cut', 'other version'])
def test_what_is_no_record_is_not_replaced(tmp_path, content):
    path = tmp_path/'run.npz'
    if content == 'poem': path.write_text('Tyger Tyger')
    elif content == 'array': np.savez(path, weights=np.ones(3))
    else: path.write_bytes(make_record().save(path).read_bytes()[:300 if content == 'cut' else None])
    old = path.read_bytes()
    learn = tiny(tmp_path, ActStats(), SaveRecord())
    with beside(path, tmp_path/'run.1.npz'): learn.fit(1)
    assert path.read_bytes() == old and Record.load(tmp_path/'run.1.npz') == learn.act_stats.record

def test_an_empty_file_is(tmp_path):
    (tmp_path/'run.npz').touch()
    tiny(tmp_path, ActStats(), SaveRecord()).fit(1)
    assert len(Record.load(tmp_path/'run.npz')) == 4

def test_a_file_that_somebody_else_wrote_in_the_middle_stays(tmp_path):
    class Other(StopAt):
        def before_batch(self):
            if (self.epoch, self.iter, self.training) == self.at: make_record().save(tmp_path/'run.npz')
    learn = tiny(tmp_path, ActStats(), SaveRecord(), Other(1, 2, None))
    with beside(tmp_path/'run.npz', tmp_path/'run.1.npz') as found: learn.fit(4)
    assert len(found) == 1 and Record.load(tmp_path/'run.npz') == make_record()
    assert len(Record.load(tmp_path/'run.1.npz')) == 16

def test_records_of_one_fit_have_one_number(tmp_path):
    make_record().save(tmp_path/'run.grad_stats.npz')
    learn = tiny(tmp_path, ActStats(), GradStats(), SaveRecord())
    with beside(tmp_path/'run.grad_stats.npz', tmp_path/'run.1.npz'): learn.fit(1)
    assert sorted(os.listdir(tmp_path)) == ['run.1.grad_stats.npz', 'run.1.npz', 'run.grad_stats.npz']
    assert Record.load(tmp_path/'run.1.grad_stats.npz').what == 'gradients'

def test_save_by_hand_replaces(tmp_path):
    make_record().save(tmp_path/'run.npz')
    make_record(steps=2).save(tmp_path/'run.npz')
    assert len(Record.load(tmp_path/'run.npz')) == 2 and os.listdir(tmp_path) == ['run.npz']
