"""Which step a batch belongs to and whether it is kept, against a count by hand over whole runs."""
import random

import pytest
import torch

from fastai_actstats.core.accumulator import Accumulator
from fastai_actstats.core.steps import Batch, Place
from fastai_actstats.kernels.bins import Bins
from fastai_actstats.kernels.dispatch import fold

KINDS = {  # what happens in a batch → is it kept, is the step over?
    'plain': (['backward_done', 'step_done'], True, True),
    'micro': (['backward_done', 'cancel'], True, False),
    'skipped': (['cancel'], False, False),
    'interrupted': (['cancel', 'backward_done'], True, False),
    'no backward': ([], True, True),
    'stepped, then cancelled': (['backward_done', 'step_done', 'cancel'], True, True),
    'evaluation': ([], True, False),
    'cancelled evaluation': (['cancel'], False, False)}

def by_hand(kinds):
    "Place of each batch: counted over the whole run, not kept as a state"
    training = [i for i, k in enumerate(kinds) if 'evaluation' not in k and k != 'fit']
    ends = {i for i in training if KINDS[kinds[i]][2]}
    for i, k in enumerate(kinds):  # a fit ends a step of which something was kept
        if k != 'fit': continue
        since = max((j for j in ends if j < i), default=-1)
        if any(KINDS[kinds[j]][1] for j in training if since < j < i): ends.add(i)
    res = []
    for i, k in enumerate(kinds):
        if k == 'fit': continue
        step, since = sum(j < i for j in ends), max((j for j in ends if j < i), default=-1)
        if not KINDS[k][1]: res.append(None)
        elif 'evaluation' in k: res.append(Place(max(step - 1, 0), False))
        else: res.append(Place(step, any(KINDS[kinds[j]][1] for j in training if since < j < i)))
    return res

@pytest.mark.parametrize('seed', range(20))
def test_places_are_those_counted_by_hand(seed):
    r = random.Random(seed)
    kinds, batch, places = r.choices([*KINDS, 'fit'], k=200), Batch(), []
    for kind in kinds:
        if kind == 'fit':
            batch.begin_fit()
            continue
        batch.begin(training='evaluation' not in kind)
        for event in KINDS[kind][0]: getattr(batch, event)()
        places.append(batch.end())
        for late in ('backward_done', 'step_done'): getattr(batch, late)()  # nothing is under way
        assert batch.end() is None
    assert places == by_hand(kinds)

def one(accumulator, training, size, *events):
    accumulator.begin_batch(training)
    if accumulator.recording:
        fold(torch.ones(size), accumulator.row('a'), accumulator.bins)
        accumulator.filled = True
    for event in events: getattr(accumulator.batch, event)()

def made(phase='both'):
    accumulator = Accumulator(Bins(4), phase=phase)
    accumulator.add_layers(['a'], torch.device('cpu'))
    return accumulator

def test_a_validation_amid_a_step_does_not_part_it():
    acc = made()
    batches = (True, 3, ('backward_done', 'cancel')), (False, 7, ()), (True, 5, ('backward_done', 'step_done'))
    for training, size, events in batches:
        one(acc, training, size, *events)
        acc.end_batch((0, 0))
    assert acc.record.train.count[:, 0].tolist() == [8]
    assert acc.record.valid.count[:, 0].tolist() == [7] and acc.step == 1

def test_an_evaluation_amid_a_batch_adds_nothing_to_it():
    acc = made('train')
    one(acc, True, 3, 'backward_done')
    acc.begin_evaluation()
    one(acc, False, 100)
    acc.end_batch((0, 0))
    assert not acc.recording
    acc.end_evaluation()
    assert acc.recording and acc.step == 0
    acc.batch.step_done()
    acc.end_batch((0, 0))
    assert acc.record.count[:, 0].tolist() == [3] and acc.step == 1
