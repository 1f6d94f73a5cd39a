"""What reading a record loads: a colleague, a notebook server or a shell command waits for nothing else."""
import inspect
import subprocess
import sys

import pytest
from helpers import ROOT

import fastai_actstats
import fastai_actstats.all
from fastai_actstats.analysis.compare import Comparison
from fastai_actstats.analysis.explain import Explanation
from fastai_actstats.analysis.report import Report
from fastai_actstats.core.channel_record import ChannelRecord
from fastai_actstats.core.record import Record

HEAVY = 'fastai', 'matplotlib', 'seaborn', 'numba', 'triton', 'sympy', 'torch._dynamo', 'torch._inductor'

def printed(code):
    "What a process of its own prints"
    return subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout

def test_the_line_that_was_promised():
    line = "import fastai_actstats.core.record, sys; print('fastai' in sys.modules, 'matplotlib' in sys.modules)"
    assert printed(line) == 'False False\n'

def test_core_loads_nothing_heavy():
    code = f"""
import sys, torch
before = set(sys.modules)
from fastai_actstats.core import accumulator, files, layers, ranks, record, ring
print(*sorted((set(sys.modules) - before) & set({HEAVY})))"""
    assert not printed(code).split()

SAVED = ROOT/'tests'/'records'/'activations-0.0.1.npz'

SCRIPT = f"""
import sys
def loaded(): return [name for name in ('fastai', 'matplotlib', 'seaborn') if name in sys.modules]
from fastai_actstats import Record, compare
rec = Record.load({str(SAVED)!r})
both = compare(a=rec, b=rec)
print(loaded(), 'heatmap' in dir(rec), 'color_dim' in dir(both))
print(len(rec.report().df) > 0, loaded())
import matplotlib
matplotlib.use('agg')
drawn = rec.color_dim(), rec.plot_stats(), rec.heatmap('mean'), rec.ridge(0), rec.first_last(), both.difference()
print(len(drawn), all(o is not None for o in drawn), loaded())
"""

@pytest.mark.slow
def test_a_script_reads_judges_and_draws_without_a_learner():
    assert printed(SCRIPT).splitlines() == [
        '[] True True', 'True []', "6 True ['matplotlib', 'seaborn']"]

def test_every_method_that_a_module_gives_a_class_is_named():
    for cls in (Record, ChannelRecord, Comparison, Report, Explanation):
        named = {m: module for module, methods in fastai_actstats._GIVEN[
            f"{cls.__module__.removeprefix('fastai_actstats.')}.{cls.__name__}"].items() for m in methods}
        functions = {m: getattr(f, 'fget', f) for m, f in vars(cls).items()}
        given = {m: f.__module__.removeprefix('fastai_actstats.') for m, f in functions.items()
                 if inspect.isfunction(f) and f.__module__ not in (cls.__module__, 'dataclasses')}
        assert given == named

def test_what_the_package_does_not_offer_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'ActStat'; all public names are in fastai_actstats.all"):
        fastai_actstats.ActStat  # noqa: B018
    assert {'Record', 'compare'} <= set(dir(fastai_actstats))
