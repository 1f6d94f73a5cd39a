"""A plugin that writes docs/what_holds.md: a line for each test that passed and notes one with `record_row`."""
import os
from pathlib import Path

import pytest

TESTS = 'tests/callbacks tests/core tests/kernels/test_dispatch.py'
COMMAND = f'ACTSTATS_TABLE=docs/what_holds.md python -m pytest {TESTS}'
INTRO = f"""# What holds

Made by the tests: `{COMMAND}`.
A line stands here because its test passed: the record is what plain hooks, a hand count or the steps before the fault
say it should be; losses, weights and random state are equal to the last bit with and without the callback, or the next
fit goes on normally; and no hook is left on the model. A dash: not what that test asks.

A graph that was compiled while a model was watched keeps one operation a layer that does nothing until the model is
watched again. Inside compiled graphs all calls of a module in a forward pass share one row, and `GradStats`,
`ChannelStats`, `DeadUnits` and `ActSample` break the graph at the layers they watch. `DataParallel` itself needs
several GPUs; its replicas are tried in threads on the CPU. `to_fp16` and `to_bf16` do nothing on a machine without a
GPU; autocast is tried for real on the CPU.
"""
HEADS = dict(models='Model', training='Way of training', endings='How a fit ends', phases='Phases',
             faults='Faults while recording')
ROWS = {table: {} for table in HEADS}
PROPERTY = 'what holds'

@pytest.fixture
def record_row(request):
    "Note a line of the table of what holds, at the end of a test that showed it"
    def note(table, name, *cells): request.node.user_properties.append((PROPERTY, (table, name, cells)))
    return note

def pytest_runtest_logreport(report):
    "Where processes share the tests, all reports come to the one that writes"
    if report.when != 'call' or not report.passed: return
    for key, value in report.user_properties:
        if key == PROPERTY:
            table, name, cells = value
            ROWS[table][name] = cells

def pytest_sessionfinish(session, exitstatus):
    path = os.environ.get('ACTSTATS_TABLE')
    if path and not exitstatus and not hasattr(session.config, 'workerinput'): Path(path).write_text(page())

def page():
    lines = [INTRO]
    for table, head in HEADS.items():
        lines += [f'| {head} | recorded as it should be | training untouched | nothing left |', '|---|---|---|---|']
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in ROWS[table].items()]
        lines.append('')
    return '\n'.join(lines)
