"""Maps and filters are those of the model, and pictures show what they say."""
import weakref

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.basics import set_seed
from PIL import Image
from torch import nn

from fastai_actstats.callbacks.activations import ActStats
from fastai_actstats.features import pages as feature_files
from fastai_actstats.features.filters import filter_weights, show_filters
from fastai_actstats.features.maps import LayerMaps, feature_maps, layer_table
from fastai_actstats.features.pages import save_feature_maps
from fastai_actstats.features.pictures import BAD, GAP, TOP, canvas, mosaic, ordered, show_feature_maps


class Block(nn.Module):
    "One ReLU, in place, called twice; a layer that never runs; one that returns no floats"
    def __init__(self):
        super().__init__()
        self.a, self.b, self.act, self.spare = nn.Conv2d(1, 4,
                                                         3), nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.Linear(2, 2)
        self.which, self.head = Which(), nn.Linear(6, 3)

    def forward(self, x):
        x = self.act(self.b(self.act(self.a(x))))
        self.which(x)
        return self.head(x.mean((2, 3)))

class Which(nn.Module):
    def forward(self, x): return {'top': x.argmax(1)}

@pytest.fixture
def block():
    set_seed(3)
    return Block().eval(), torch.randn(2, 1, 9, 9)


@pytest.mark.filterwarnings('ignore:layers without maps')
def test_maps_are_those_of_a_plain_hook(block):
    model, x = block
    expected = [(n, o.clone()) for n, o in copies(model, x) if isinstance(o, torch.Tensor)]
    got = [(m.name, m.maps.clone(), m.call) for m in feature_maps(model, x, lambda n, m: not list(m.children()))]
    assert sorted((n, c) for n, _, c in got) == [('a', 1), ('act', 1), ('act', 2), ('b', 1), ('head', 1)]
    for name, maps, call in got:
        of_name = [o for n, o in expected if n == name]
        assert torch.equal(maps, of_name[call - 1])

def copies(model, x):
    "What one forward pass returns, call by call, copied before anything is changed in place"
    seen, handles = [], []
    for name, m in model.named_modules():
        if list(m.children()): continue
        def hook(m, args, out, name=name): seen.append((name, out.clone() if isinstance(out, torch.Tensor) else out))
        handles.append(m.register_forward_hook(hook))
    with torch.no_grad(): model(x)
    for h in handles: h.remove()
    return seen

def test_one_layer_is_held_at_a_time():
    model = nn.Sequential(*(nn.Linear(50, 50) for _ in range(6)))
    outputs = []
    for m in model: m.register_forward_hook(lambda m, args, out: outputs.append(weakref.ref(out.untyped_storage())))
    kept = []
    for one in feature_maps(model, torch.zeros(2, 50)):
        assert sum(o() is not None for o in outputs) <= 1
        kept.append(one)
    assert sum(o() is not None for o in outputs) == 0
    with pytest.raises(RuntimeError, match="maps of layer '0' were freed"): _ = kept[0].maps

def test_only_what_lies_before_the_layer_runs():
    model, ran = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4))), []
    for i, m in enumerate(model): m.register_forward_pre_hook(lambda m, args, i=i: ran.append(i))
    maps = feature_maps(model, torch.zeros(1, 3), '1')
    assert ran == [0, 1, 2, 3]  # to learn what there is
    next(maps)
    assert ran == [0, 1, 2, 3, 0, 1]

def test_layers_without_maps_are_named(block):
    model, x = block
    with pytest.warns(UserWarning, match="'which' .Which, no tensor of floats.*, 'spare' .Linear, did not run"):
        feature_maps(model, x, lambda n, m: not list(m.children()))
    with pytest.raises(ValueError, match="no layer with maps is chosen: 'spare' .Linear, did not run"):
        feature_maps(model, x, 'spare')
    with pytest.raises(ValueError, match='channel_dim=0 is no dimension behind the batch'):
        list(feature_maps(model, x, 'a', channel_dim=0))

def test_the_table_of_layers(block):
    model, x = block
    table = layer_table(model, x).set_index('layer')
    assert list(table.index) == ['a', 'act', 'b', 'which', 'head', 'Block', 'spare']
    assert table.loc['act', ['shape', 'calls', 'params']].tolist() == [(2, 4, 7, 7), 2, 0]
    assert table.loc['act', 'MiB'] == pytest.approx((2*4*49 + 2*6*25)*4/2**20)
    assert table.loc['which', ['shape', 'dtype', 'calls']].tolist() == [(), '', 1] and table.loc['spare', 'calls'] == 0
    model.a.weight.requires_grad_(False)
    table = layer_table(model, x, ['a', 'Block']).set_index('layer')
    assert table.loc['a', ['params', 'trainable']].tolist() == [40, 4]
    assert table.loc['Block', 'params'] == sum(p.numel() for p in model.parameters())

@pytest.mark.parametrize('layers, x, shape', [
    ([nn.Conv2d(1, 5, 3), nn.ReLU()], (2, 1, 9, 9), (5, 7, 7)), ([nn.Linear(3, 5), nn.GELU()], (2, 7, 8, 3), (5, 7, 8)),
    ([nn.Linear(3, 5), nn.ReLU()], (2, 3), (5,)), ([nn.Conv1d(3, 5, 3), nn.ReLU()], (2, 3, 9), (5, 7)),
    ([nn.Linear(3, 5), nn.LayerNorm(5)], (2, 7, 3), (5, 7)), ([nn.Conv3d(1, 5, 3), nn.MaxPool3d(2)], (2, 1, 9, 9, 9),
                                                              (5, 3, 3, 3))])
def test_channels_come_first(layers, x, shape):
    one = next(feature_maps(nn.Sequential(*layers), torch.randn(x), '1'))
    assert one.channels(1).shape == shape and one.planes(1).dim() == 3 and len(one.stats()) == 5

def test_a_recurrent_layer_comes_batch_first():
    one, = feature_maps(nn.LSTM(3, 4), torch.randn(7, 2, 3), '*')
    assert one.shape == (2, 7, 4)  # it returned [7, 2, 4] and its states

def test_stats_of_channels():
    x = torch.randn(1, 40, 90, 90)*torch.arange(40)[:, None, None]
    x[0, 3, 0, 0], x[0, 5] = torch.nan, torch.inf
    got = LayerMaps('x', nn.Conv2d(1, 1, 1), 1, x).stats()
    for c in (0, 1, 3, 39):
        v = x[0, c].double().numpy()
        v = v[np.isfinite(v)]
        expected = [c, v.mean(), v.std(ddof=1), v.min(), v.max(), (np.abs(v) <= 1e-6).mean()]
        assert np.allclose(got.loc[c], expected, rtol=1e-12, atol=1e-12)
    assert got.loc[5, ['mean', 'std', 'min', 'max', 'near_zero']].isna().all()

# pictures

def test_the_mosaic_shows_each_value_in_its_place():
    x = torch.randn(5, 3, 2)
    x[2, 0, 0] = torch.nan
    for scale in (None, (-1., 2.)):
        got = mosaic(x, [4, 2, 0, 1, 3], 2, scale, zoom=4)
        assert got.shape == (3*(12 + 2) - 2, 2*(8 + 2) - 2)
        for k, c in enumerate([4, 2, 0, 1, 3]):
            v = x[c].double().numpy()
            low, high = scale or (np.nanmin(v), np.nanmax(v))
            place = np.where(np.isnan(v), BAD, np.rint(np.clip((v - low)/(high - low), 0, 1)*TOP))
            r, s = divmod(k, 2)
            tile = got[r*14:r*14 + 12, s*10:s*10 + 8]
            assert np.abs(tile - np.kron(place, np.ones((4, 4)))).max() <= 1
            assert (tile == BAD).sum() == 16*np.isnan(v).sum()
        assert (got[12:14] == GAP).all() and (got[28:, 10:] == GAP).all()

def test_channels_in_order():
    x = torch.stack([torch.full((4, 4), 2.), torch.randn(4, 4), torch.full((4, 4), 3.)])[None]
    one = LayerMaps('x', nn.Conv2d(1, 1, 1), 1, x)
    assert ordered(one) == [0, 1, 2] and ordered(one, 'mean') == [2, 0, 1] and ordered(one, 'variance')[0] == 1
    assert ordered(one, 'mean', most=2) == [2, 0]

def test_a_vector_fills_rows():
    one = LayerMaps('x', nn.Linear(1, 1), 1, torch.arange(7.)[None])
    got = canvas(one, 0, [0], 1, (0, 6))
    assert got.shape == (3, 3) and (got[-1, 1:] == GAP).all()
    assert got.ravel()[:7].tolist() == [round(i*TOP/6) for i in range(7)]

def test_what_is_shown(learner):
    learn = learner()
    figs = show_feature_maps(learn, 2, ['1.0', '5'], per_page=10, order='mean', scale='layer')
    assert len(figs) == 3  # 16 channels on two pages, and a vector
    one = next(feature_maps(learn, 2, '1.0'))
    stats = one.stats()
    numbers = [int(t.get_text()) for fig in figs[:2] for t in fig.axes[0].texts]
    assert numbers == stats['mean'].sort_values(ascending=False, kind='stable').index.tolist()
    bar, = [a for a in figs[0].axes if a.get_ylabel() == 'activation']
    assert np.allclose(bar.get_ylim(), (stats['min'].min(), stats['max'].max()))
    image, mean = [a for a in figs[0].axes if a.get_title() in ('input', 'mean of all channels')]
    assert np.allclose(mean.images[0].get_array(), one.maps[0].mean(0), atol=1e-6)
    assert image.images[0].get_array().shape == (28, 28)
    plt.close('all')
    with pytest.raises(ValueError, match="order='size' must be one of"):
        show_feature_maps(learn, 2, '1.0', order='size')
    with pytest.raises(IndexError, match='item 1 is not among the 1'): show_feature_maps(learn, 2, '1.0', item=1)

def test_everything_is_written(learner, tmp_path):
    learn = learner()
    table = save_feature_maps(learn, 2, tmp_path, per_page=40, progress=False)
    assert not table['error'].any() and table['layer'].tolist()[:4] == ['0.0', '0.1', '0.2', '1.0']
    page = (tmp_path/'index.html').read_text()
    files = [f for fs in table['files'] for f in fs] + table['thumb'].tolist() + ['input.png']
    assert all((tmp_path/f).is_file() and f'"{f}"' in page for f in files) and not list(tmp_path.rglob('*.part'))
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob('*.png')} == set(files)
    row = table.set_index('layer').loc['3.0']
    assert len(row['files']) == 2  # 64 channels
    one = next(feature_maps(learn, 2, '3.0'))
    assert row['mean'] == pytest.approx(one.maps.mean().item()) and row['std'] == pytest.approx(one.maps.std().item())
    levels = np.asarray(Image.open(tmp_path/row['files'][1]))  # palette indices
    assert np.array_equal(levels, mosaic(one.maps[0], range(40, 64), 5, None, 20))

def test_a_layer_that_fails_does_not_keep_the_others(block, tmp_path, monkeypatch):
    model, x = block
    write = feature_files._write
    def full(path, data):
        if path.name.startswith('0002'): raise OSError(28, 'No space left on device')
        write(path, data)
    monkeypatch.setattr(feature_files, '_write', full)
    table = save_feature_maps(model, x, tmp_path, progress=False).set_index('layer')
    assert list(table.index) == ['a', 'act', 'b', 'act@2', 'which', 'head', 'spare']
    assert table.loc[['a', 'b', 'act@2', 'head'], 'error'].eq('').all()
    assert (tmp_path/table.loc['head', 'files'][0]).is_file()
    for layer, why in {'act': 'No space left', 'which': 'no tensor of floats', 'spare': 'did not run'}.items():
        assert why in table.loc[layer, 'error'] and why in (tmp_path/'index.html').read_text()

def test_an_export_that_is_interrupted_lists_what_there_is(block, tmp_path, monkeypatch):
    model, x = block
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(Which, 'forward', stop)
    with pytest.raises(KeyboardInterrupt): save_feature_maps(model, x, tmp_path, progress=False)
    page = (tmp_path/'index.html').read_text()
    assert '<td>b</td>' in page and page.count('it did not run') == 3 and not list(tmp_path.rglob('*.part'))
    assert not any(m._forward_hooks for m in model.modules())

def test_names_are_made_safe(tmp_path):
    model = nn.Module()
    model.add_module('<b>/', nn.Linear(2, 2))
    model.forward = lambda x: next(model.children())(x)
    table = save_feature_maps(model, torch.zeros(1, 2), tmp_path, progress=False)
    assert not table['error'].any() and all((tmp_path/f).parent == tmp_path for f in table['files'][0])
    assert '<b>' not in (tmp_path/'index.html').read_text()

# filters

def test_filters_are_the_weights(learner, tmp_path):
    learn = learner()
    first = learn.model[0][0].weight.detach().clone()
    learn.path, before = tmp_path, {k: v.clone() for k, v in learn.model.state_dict().items()}
    learn.save('before', with_opt=True)
    torch.save(before, tmp_path/'weights.pth')
    learn.fit(1, 0.05)
    assert torch.equal(filter_weights(learn), learn.model[0][0].weight)
    assert not torch.equal(filter_weights(learn), first)
    for saved in (before, tmp_path/'weights.pth', tmp_path/'models'/'before.pth',
                  {f'module.{k}': v for k, v in before.items()}):
        assert torch.equal(filter_weights(learn, '0.0', saved), first)
    fig = show_filters(learn, '0.0', before=tmp_path/'weights.pth')
    top = max(first.abs().max(), learn.model[0][0].weight.abs().max()).item()
    for ax, w in zip(fig.axes, (first, learn.model[0][0].weight.detach())):
        assert np.array_equal(ax.images[0].get_array(), mosaic(w[:, 0]/top, range(8), 3, (-1, 1), 5))
    assert [a.get_title() for a in fig.axes[:2]] == ['before', 'after']
    plt.close('all')

def test_kernels_of_every_convolution():
    for conv, shape in [(nn.Conv1d(2, 4, 3), (4, 2, 1, 3)), (nn.ConvTranspose2d(2, 4, 3), (4, 2, 3, 3)),
                        (nn.Conv3d(2, 4, (3, 5, 7)), (4, 2, 5, 7))]:
        model = nn.Sequential(conv, nn.ReLU())
        assert filter_weights(model).shape == shape
        show_filters(model)
    assert torch.equal(filter_weights(nn.Sequential(conv)), conv.weight[:, :, 1])
    conv = nn.Conv2d(3, 6, 5)
    picture = show_filters(nn.Sequential(conv), scale='each').axes[0].images[0].get_array()
    w = conv.weight.detach()[0].permute(1, 2, 0).numpy()
    assert np.allclose(picture[2:25:5, 2:25:5], w/np.abs(w).max()/2 + .5, atol=1e-6)  # RGB, zero in the middle
    plt.close('all')

def test_filters_that_are_not_there(learner, tmp_path):
    learn = learner()
    (tmp_path/'bad.pth').write_bytes(b'no weights')
    for call, kind, said in [
        (lambda: filter_weights(learn, '0.2'), ValueError,
         "layer='0.2' must be one convolution, it is 0 of these: 0.0, 1.0"),
        (lambda: filter_weights(learn, '*'), ValueError, 'it is 5 of these'),
        (lambda: filter_weights(learn, '0.0', {'x': torch.zeros(1)}), ValueError, 'have no 0.0.weight'),
        (lambda: filter_weights(learn, '0.0', {'0.0.weight': torch.zeros(1)}), ValueError, r'have shape \(1,\)'),
        (lambda: filter_weights(learn, '0.0', tmp_path/'bad.pth'), ValueError, 'is not a file of saved weights'),
        (lambda: filter_weights(learn, '0.0', tmp_path/'none.pth'), FileNotFoundError, 'there is no file')]:
        with pytest.raises(kind, match=said): call()

def test_a_record_beside_the_filters(learner):
    learn = learner(cbs=ActStats())
    learn.fit(1, 0.05)
    rec = learn.act_stats.record
    fig = show_filters(learn, '0.0', before=rec)
    first, last = [p for p in fig.axes[1].patches]
    counts = rec['0.0'].hist[-1, 0]
    assert np.allclose(last.get_data().values, counts/counts.sum())
    plt.close('all')
