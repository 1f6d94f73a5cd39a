"""What a course student, a text and tabular practitioner and a researcher do first: each got stuck here once."""
import contextlib
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.basics import DataLoaders, MSELossFlat
from fastai.callback.core import Callback
from fastai.tabular.model import TabularModel
from fastai.text.models.awdlstm import AWD_LSTM
from helpers import make_record, seeded, tiny
from torch import nn

from fastai_actstats.all import ActStats, GradStats, Record, WeightStats, compare
from fastai_actstats.analysis.report import Report
from fastai_actstats.analysis.rules import Finding
from fastai_actstats.core.markup import prose, table


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

# a course student

def test_tab_offers_what_the_callback_can_do(tmp_path):
    learn = tiny(tmp_path, ActStats(), GradStats(), WeightStats())
    learn.fit(1, .01)
    for cb, own in ((learn.act_stats, {'color_dim', 'hist', 'layer_stats', 'plot_layer_stats'}),
                    (learn.grad_stats, set()),
                    (learn.weight_stats, {'grads', 'updates', 'update_ratio', 'plot_update_ratio'})):
        offered = {n for n in dir(Record) if not n.startswith('_')} | {*Record.__annotations__}
        assert set(dir(cb)) == offered | own | {'name', 'record', 'records', 'by_rank', 'reset'}
        assert all(hasattr(cb, n) for n in dir(cb))
    class Mine(ActStats):
        def count_things(self): return 3
        def before_fit(self): super().before_fit()
    assert {*dir(Mine())} - {*dir(ActStats())} == {'count_things'}

def test_a_listing_of_the_loop_has_short_lines(tmp_path):
    learn = tiny(tmp_path, ActStats(), GradStats(), WeightStats())
    learn.fit(1, .01)
    with contextlib.redirect_stdout(io.StringIO()) as said: learn.show_training_loop()
    assert 'ActStats (2 layers, 4 steps, ' in said.getvalue() and 'WeightStats (4 tensors, 4 steps, ' in said.getvalue()
    for cb in (learn.act_stats, learn.grad_stats, learn.weight_stats):
        assert '\n' not in repr(cb) and len(repr(cb)) < 60
    assert str(learn.weight_stats.record).startswith('Record of weights: 4 tensors, 4 columns')

def test_show_is_the_picture_to_begin_with(tmp_path):
    torch.manual_seed(0)
    learn = tiny(tmp_path, ActStats('*'))
    learn.fit(2, .01)
    fig = learn.act_stats.show()
    assert {a.get_title().split('  ')[0] for a in fig.axes if a.get_title()} <= {*learn.act_stats.record.layers}
    assert learn.act_stats.report().headline.split('.')[0][:40] in fig.get_supxlabel()
    fig.savefig(tmp_path/'first.png')
    assert (tmp_path/'first.png').stat().st_size > 5000

def test_what_the_report_names_is_shown_first():
    torch.manual_seed(0)
    rec = make_record(20)
    fits = [a.get_title().split('  ')[0] for a in rec.show(most=4).axes if a.get_title()]
    assert len(fits) == 4 and fits == sorted(fits, key=int)
    from fastai_actstats.plots.glance import that_matter
    found = Report([Finding('13', 'dead', 3, '', ''), Finding('5', 'dead', 4, '', '')])
    assert {5, 13} <= {*that_matter(rec, found, 4)} and len(that_matter(rec, found, 4)) == 4
    assert [a.get_title() for a in rec.show('1?').axes if a.get_title()] == [f'{i}  Linear' for i in range(10, 20)]

def test_code_in_a_remedy_is_shown_as_code():
    assert prose('give `eps=1e-5`, not `eps=0`') == 'give <code>eps=1e-5</code>, not <code>eps=0</code>'
    assert prose('one ` alone & <b>') == 'one ` alone &amp; &lt;b&gt;' and '<code>a</code> b ` c' in prose('`a` b ` c')
    report = Report([Finding('0', 'dead', 3, 'all of `relu`', 'try `nn.LeakyReLU`')])
    shown = report._repr_html_()
    assert '<code>nn.LeakyReLU</code>' in shown and '`' not in shown
    assert '<code>' in table(report.df)

# a text and tabular practitioner

@pytest.mark.slow
def test_text_and_tables_take_the_same_words(few, settings):
    table = TabularModel([(9, 4), (5, 3)], 3, 1, [16, 8])
    items = [(torch.randint(0, 5, (2,)), torch.randn(3), torch.randn(1)) for _ in range(64)]
    dls = DataLoaders.from_dsets(items, items, bs=16, num_workers=0, device=torch.device('cpu'))
    dls.n_inp = 2
    learn = seeded(dls, settings, ActStats(), table, dls, loss_func=MSELossFlat())
    learn.fit(1, .01)

    fig = learn.act_stats.color_dim('embeds.*')
    assert [a.get_title() for a in fig.axes if a.get_title()] == ['embeds.0  Embedding', 'embeds.1  Embedding']
    assert len(learn.act_stats.plot_stats('std', 'layers.*').axes[0].lines)

    class Last(nn.Module):
        def __init__(self): super().__init__(); self.lm, self.head = AWD_LSTM(20, 8, 12, 3), nn.Linear(8, 1)
        def forward(self, x): return self.head(self.lm(x)[:, -1])
    class Reset(Callback):
        def before_batch(self): self.model.lm.reset()
    words = [(torch.randint(0, 20, (6,)), torch.randn(1)) for _ in range(64)]
    dls = DataLoaders.from_dsets(words, words, bs=16, num_workers=0, device=torch.device('cpu'))
    learn = seeded(dls, settings, [ActStats(layers='blocks'), Reset()], Last(), dls, loss_func=MSELossFlat())
    learn.fit(1, .01)
    assert learn.act_stats.record.layers == ['lm.rnns.0', 'lm.rnns.1', 'lm.rnns.2']
    assert learn.act_stats.show() and learn.act_stats.heatmap('std')

# a researcher

def test_a_trend_over_depth_is_a_line_for_each_moment():
    from fastai_actstats.plots.depth import depth_data
    rec = make_record(12)
    rec = rec.replace(layers=[f'h.{i//3}.{p}' for i, p in enumerate(['ln', 'attn.proj', 'mlp.fc1']*4)],
                      info={f'h.{i}.{p}': dict(type=t) for i in range(4)
                            for p, t in (('ln', 'LayerNorm'), ('attn.proj', 'Linear'), ('mlp.fc1', 'Linear'))})
    data = depth_data(rec, 'std', moments=3)
    assert list(data) == ['norm', 'attention', 'mlp'] and all(d.shape == (3, 4) for d in data.values())
    np.testing.assert_allclose(data['mlp'], rec['*.mlp.fc1'].merged(3).std)
    whole = depth_data(rec, 'mean', by='block', moments=1)['']
    one = rec.merged()['h.2.*']
    np.testing.assert_allclose(whole['h.2'], (one.mean*one.count).sum(1)/one.count.sum(1))  # over all of its values
    fig = rec.plot_depth('std', moments=3)
    assert [a.get_title() for a in fig.axes] == ['norm', 'attention', 'mlp']
    for ax, d in zip(fig.axes, data.values()):
        np.testing.assert_allclose([line.get_ydata() for line in ax.lines], d)
    assert re.findall(r'from step \d+', ' '.join(t.get_text() for t in fig.legends[0].texts))
    with pytest.raises(ValueError, match="by='row' must be one of"): rec.plot_depth(by='row')
    with pytest.raises(ValueError, match="the names show no repeated blocks: 0, 1, 2"):
        make_record().plot_depth(by='block')

def test_two_records_are_compared_as_they_come(tmp_path):
    rec = make_record(17)
    both = compare([rec, rec.replace(notes='again')])
    fig = both.plot_stats('std')
    words = [t for a in fig.axes for t in (a.title, *a.texts, *a.findobj(plt.Text)) if t.get_text()]
    assert len(words) >= 17 and all(t.get_color() in ('black', 'k') for t in words)  # on white paper
    both.color_dim().savefig(tmp_path/'both.png')
