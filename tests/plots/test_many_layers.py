"""Pictures of 5 to 500 layers of real architectures: no text lies over another, none is cut off, every layer is named.

What is drawn is made up; names and types are those of the networks. `bench/pictures.py` measures the seconds."""
import re

import matplotlib.pyplot as plt
import pytest
from drawn import architectures, made_up, pictures, texts, wrong

from fastai_actstats.all import compare
from fastai_actstats.plots.text import shorten, text_width


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

@pytest.fixture(scope='module')
def networks(): return architectures()

NETWORKS = ('5 layers of the reference CNN', '17 layers of xresnet18', '52 layers of xresnet34',
            '121 layers of densenet121', '148 layers of a GPT of 24 blocks', '500 layers of densenet169',
            '467 weights of ResNet-152')

PICTURES = ('color_dim', 'color_dim auto', 'plot_stats', 'heatmap', 'ridge', 'first_last', 'plot_depth', 'show',
            'color_dim run', 'plot_stats run', 'compare color_dim', 'compare plot_stats', 'difference')

@pytest.fixture(scope='module')
def drawn(request, networks):
    "Of one network: name → function that draws a picture; how many layers it has"
    types = networks[request.param]
    what = 'weights' if 'weights' in request.param else 'activations'
    rec, other = (made_up(types, 24, 40, what=what, seed=seed, grows=1. - seed) for seed in (0, 1))
    return pictures(rec, compare(grows=rec, steady=other)), list(types)

MOST = {'500 layers of densenet169': ('plot_stats', 'heatmap', 'first_last'),  # the others take half a minute each
        '467 weights of ResNet-152': ('color_dim', 'show')}
DRAWN = [(network, name) for network in NETWORKS for name in MOST.get(network, PICTURES)]
BY_LAYER = {'color_dim', 'heatmap', 'first_last', 'compare color_dim', 'compare plot_stats', 'difference'}

@pytest.mark.slow
@pytest.mark.parametrize('drawn, name', DRAWN, indirect=['drawn'])
def test_texts_stand_apart_and_whole(drawn, name):
    draw, layers = drawn
    fig = draw[name]()
    over, cut = wrong(fig)
    assert not over and not cut
    if name not in BY_LAYER: return
    said = ' '.join(t for t, _ in texts(fig))
    ends = [re.escape(n.rpartition('.')[2]) for n in layers]
    assert len(re.findall('|'.join(sorted({*ends}, key=len, reverse=True)), said)) >= len(layers), 'a layer has no name'

def test_what_is_measured_is_what_is_wrong():
    fig = plt.figure(figsize=(3, 1))
    fig.text(.1, .5, 'one')
    fig.text(.13, .5, 'two')
    fig.text(.95, .5, 'over the edge')
    fig.text(.1, .1, 'hidden', visible=False)
    assert wrong(fig) == ([('one', 'two')], ['over the edge'])

@pytest.mark.parametrize('inches', [4, 1.5, .8])
def test_shortened_names_fit_and_differ(networks, inches):
    for types in networks.values():
        short = shorten(list(types), inches, 6.5)
        assert max(text_width(s, 6.5) for s in short) <= inches
        assert len(set(short)) == len(types) or inches < 1

def test_a_name_loses_its_beginning_first():
    assert shorten(['model.layers.11.fc2', 'model.layers.11.fc1'], .9, 8) == ['…layers.11.fc2', '…layers.11.fc1']

def test_an_outlier_is_named_at_its_end_and_the_others_are_quiet(networks):
    types = networks['121 layers of densenet121']
    rec = made_up(types, 24, 40)
    ax = rec.plot_stats('std').axes[0]
    [name] = [t for t in ax.texts if t.get_text()]
    odd = list(types)[len(types)//2]
    assert odd.endswith(name.get_text().strip('…')) or name.get_text().split('.')[-1] == odd.split('.')[-1]
    loud = [line.get_label() for line in ax.lines[:len(types)] if line.get_alpha() is None]
    assert loud == [f'{odd}  Conv2d'] and ax.lines[0].get_alpha() < .5
    calm = made_up(types, 8, 40)[[i for i in range(121) if i != len(types)//2 and i % 3 != 1]]
    assert not [t for t in calm.plot_stats('std').axes[0].texts if t.get_text()]

def test_many_layers_are_ordered_by_kind(networks):
    rec = made_up(networks['148 layers of a GPT of 24 blocks'], 8, 20)
    labels = [t for t in rec.heatmap().axes[0].get_yticklabels()]
    heads = [t.get_text() for t in labels if t.get_fontweight() == 'bold']
    assert heads == ['embedding', 'norm', 'attention', 'mlp', 'linear'] and len(labels) == 148 + 5
    plain = [t.get_text() for t in rec.heatmap(by='depth').axes[0].get_yticklabels()]
    assert len(plain) == 148 and plain[2].startswith('transformer.h.0.ln_1')
