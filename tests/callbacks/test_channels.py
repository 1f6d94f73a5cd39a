"""ChannelStats and DeadUnits against all activations kept, and where channels lie in outputs of many layers."""
import numpy as np
import pytest
import torch
from fastai.basics import Callback, CancelTrainException
from fastai.callback.training import GradientAccumulation
from helpers import Keep
from torch import nn

from fastai_actstats.all import ActStats, DeadUnits
from fastai_actstats.core.channels import ALIVE, activation_kind, channel_axis, makers


def units_last(keep, name):
    "What was kept of a layer, a step at a time: [values, C]"
    return [x.movedim(1, -1).flatten(0, -2) for x in keep.outputs(name)]

def fates(active, window, epoch=None):
    "Step of the latest death, of waking, number of deaths, from bool [steps, C]: silent for a window or an epoch"
    res = np.tile([[-1], [-1], [0]], active.shape[1])
    for c, col in enumerate(active.T):
        silent, dead = 0, False
        for step, spoke in enumerate(col):
            silent = 0 if spoke else silent + 1
            if spoke and dead: res[1, c], dead = step, False
            over = silent >= window if epoch is None else (step + 1) % epoch == 0 and silent >= epoch
            if over and not dead: res[0, c], res[1, c], res[2, c], dead = step - silent + 1, -1, res[2, c] + 1, True
    return res

def deadly(kind=nn.ReLU):
    "Both kinds of layers, and units that die while it trains: their biases are pushed down"
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 12, 5, stride=4), kind(), nn.Flatten(), nn.Linear(12*36, 20), kind(),
                         nn.Linear(20, 10))

class Push(Callback):
    "Silences units for a while: 0 from the start, 1 from step 20, 2 from step 16 to 35"
    def before_batch(self):
        for layer in (0, 3):
            bias, step = self.learn.model[layer].bias.data, self.learn.train_iter
            bias[:3] = torch.tensor([-99., -99. if step >= 20 else 9., -99. if 16 <= step < 36 else 9.])

@pytest.mark.parametrize('window', ['epoch', 3, 7])
def test_equal_all_activations_kept(learner, settings, window):
    keep, units = Keep(['1', '4']), DeadUnits(window=window)
    learn = learner([units, keep, Push()], model=deadly())
    learn.fit(4, settings.lr/20)
    rec, size = units.record, 14 if window == 'epoch' else window
    assert list(rec.channels) == ['1', '4']
    assert (rec.steps[:, 0] == np.arange(0, 56, size)).all() and rec.steps[-1, 1] == 55
    for name in rec.channels:
        kept = torch.stack(units_last(keep, name))  # [steps, values, C]
        active = (kept > 0).any(1).numpy()
        for i, w in enumerate(kept.split(size)):
            np.testing.assert_allclose(rec.share(name)[i], (w > 0).double().mean((0, 1)), rtol=1e-12)
            assert (rec.dead(name)[i] == (w <= 0).all(0).all(0).numpy()).all()
            assert rec.dead_share[i, list(rec.channels).index(name)] == (w <= 0).all(0).all(0).double().mean()
        want = fates(active, size, 14 if window == 'epoch' else None)
        assert (np.stack(rec.fates(name)) == want).all(), (rec.fates(name), want)
    assert rec.died('1')[:2].tolist() == [0, 20]
    if window != 'epoch': assert (rec.died('1')[2], rec.woke('1')[2], rec.deaths('1')[2]) == (16, 36, 1)
    table = rec.table().set_index('layer')
    assert table.units.tolist() == [12, 20] and (table.dead >= 2).all() and (table.always_dead >= 1).all()
    assert (table.first_death == 0).all()
    assert len(rec.channel_table()) == 32 and (rec.channel_table().query('deaths > 0').died >= 0).all()

@pytest.mark.parametrize('kind,module', [('tanh', nn.Tanh), ('sigmoid', nn.Sigmoid)])
def test_saturated_units_equal_those_of_kept_activations(learner, settings, kind, module):
    class Far(Callback):
        def before_batch(self): self.learn.model[3].bias.data[:2] = torch.tensor([50., -50.])
    keep, units = Keep(['1', '4']), DeadUnits()
    learner([units, keep, Far()], model=deadly(module)).fit(1, settings.lr/20)
    rec, (low, high) = units.record, ALIVE[kind]
    for name in rec.channels:
        x = torch.cat(units_last(keep, name))
        outside = (x > high) | (x < low)
        assert rec.info[name]['kind'] == kind and (rec.dead(name)[0] == outside.all(0).numpy()).all()
        np.testing.assert_allclose(rec.share(name)[0], 1 - outside.double().mean(0), rtol=1e-12)
    assert rec.dead('4')[0, :2].all() and not rec.dead('4')[0, 2:].all()

def test_full_memory_merges_windows(learner, settings):
    keep, units = Keep(['1']), DeadUnits('1', window=1, capacity=8)
    learn = learner([units, keep], model=deadly())
    learn.fit(3, settings.lr/20)
    rec, x = units.record, torch.stack(units_last(keep, '1'))
    assert len(rec) <= 8 and rec.steps[0, 0] == 0 and rec.steps[-1, 1] == 41
    assert (rec.steps[1:, 0] == rec.steps[:-1, 1] + 1).all()
    for (first, last), alive_in in zip(rec.steps, rec['1'].hist[..., 0]):
        assert (alive_in == (x[first:last + 1] > 0).sum((0, 1)).numpy()).all()
    size = units.accumulator.nbytes
    learn.fit(1, settings.lr/20)
    assert units.accumulator.nbytes == size

def test_micro_batches_are_one_step(learner, settings):
    units = DeadUnits(window=2)
    learn = learner([units, ActStats(nn.ReLU), GradientAccumulation(2*settings.batch_size)], model=deadly())
    learn.fit(1, settings.lr/20)
    assert (units.record.steps == [[0, 1], [2, 3], [4, 5], [6, 6]]).all() and units.accumulator.step == 7
    assert (units.record['4'].count.T == [256, 256, 256, 128]).all()

def test_an_epoch_cut_short_buries_nobody(learner, settings):
    class Cut(Callback):
        def after_batch(self):
            if self.learn.training and self.learn.iter == 1: raise CancelTrainException
    units = DeadUnits()
    learn = learner([units, Push(), cut := Cut()], model=deadly())
    learn.fit(1, settings.lr/20)
    assert units.record.dead('4')[0, 0] and not units.record.deaths('4').any()
    learn.remove_cb(cut)
    learn.fit(1, settings.lr/20)
    assert units.record.died('4')[0] == 0 and units.record.deaths('4')[0] == 1

class Zoo(nn.Module):
    "Layouts side by side: images, tokens, tokens in a grid, sequences of channels"
    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 6, 5, stride=4), nn.ReLU()
        self.norm, self.gelu = nn.GroupNorm(3, 6), nn.GELU()
        self.grid, self.silu = nn.Linear(6, 9), nn.SiLU()
        self.layer_norm, self.tanh = nn.LayerNorm(9), nn.Tanh()
        self.attention = nn.MultiheadAttention(9, 3, batch_first=True)
        self.leaky = nn.LeakyReLU()
        self.conv1d, self.sigmoid = nn.Conv1d(9, 5, 3), nn.Sigmoid()
        self.head, self.elu = nn.Linear(5, 10), nn.ELU()
    def forward(self, x):
        x = self.gelu(self.norm(self.relu(self.relu(self.conv(x)) - .1)))  # [N, 6, 6, 6], one ReLU called twice
        x = self.silu(self.grid(x.permute(0, 2, 3, 1)))                  # [N, 6, 6, 9]
        x = self.tanh(self.layer_norm(x.flatten(1, 2)))                  # [N, 36, 9]
        x = self.leaky(self.attention(x, x, x)[0])
        x = self.sigmoid(self.conv1d(x.transpose(1, 2)))                 # [N, 5, 34]
        return self.elu(self.head(x.mean(-1)))

def test_where_units_lie(learner, settings):
    learn = learner([DeadUnits(), ActStats(nn.ReLU)], model=Zoo())
    learn.fit(1, settings.lr/20)
    rec = learn.dead_units.record
    got = {n: (rec.info[n]['axis'], len(rec.channels[n]), rec.info[n]['kind']) for n in rec.channels}
    assert got == {'relu': (1, 6, 'relu'), 'relu:2': (1, 6, 'relu'), 'gelu': (1, 6, 'relu'), 'silu': (3, 9, 'relu'),
                   'tanh': (2, 9, 'tanh'), 'leaky': (2, 9, 'relu'), 'sigmoid': (1, 5, 'sigmoid'),
                   'elu': (1, 10, 'relu')}
    watched = DeadUnits([nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention, nn.Conv1d])
    learner(watched, model=Zoo()).fit(1, settings.lr/20)
    got = {n: (i['axis'], len(watched.record.channels[n])) for n, i in watched.record.info.items()}
    assert got == dict(conv=(1, 6), norm=(1, 6), grid=(3, 9), layer_norm=(2, 9), attention=(2, 9), conv1d=(1, 5),
                       head=(1, 10))

def test_models_of_other_families():
    import timm
    for name, axes in (('resnet18', {1}), ('convnext_atto', {1}), ('convnext_tiny', {-1}),
                       ('vit_tiny_patch16_224', {-1})):
        with torch.device('meta'): model = timm.create_model(name)
        before, got = makers(model), []
        for m in model.modules():
            if activation_kind(m):
                def note(m, i, o, before=before, got=got): got.append((o.dim(), channel_axis(o.shape, before[m])))
                m.register_forward_hook(note)
        with torch.no_grad(): model.eval()(torch.zeros(1, 3, 224, 224, device='meta'))
        assert got and {a if a == 1 and d > 2 else a - d for d, a in got} <= axes, (name, got)

def test_channel_dim_and_what_is_wrong_with_it(learner, settings):
    units = DeadUnits('0', channel_dim=-1)
    learner(units, model=deadly()).fit(1, settings.lr/20)
    assert units.record['0'].rows.shape[:2] == (1, 6)
    class Narrow(Callback):
        def before_batch(self): self.learn.xb = (self.learn.xb[0][..., :24 if self.learn.train_iter else 28],)
    learn = learner([DeadUnits('0', channel_dim=3), Narrow()],
                    model=nn.Sequential(nn.Conv2d(1, 4, 5, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                                        nn.Linear(4, 10)))
    with pytest.warns(UserWarning, match="layer '0' is left out.*had 6 channels and has 5.*channel_dim=") as seen:
        learn.fit(1, settings.lr/20)
    assert len(seen) == 1

@pytest.mark.parametrize('kwargs,error,match', [
    (dict(window=0), ValueError, "window=0 must be 'epoch'"), (dict(window='fit'), ValueError, "window='fit'"),
    (dict(window=True), ValueError, 'window=True'),
    (dict(kind='gelu'), ValueError, "kind='gelu' must be None or one of .*'relu'"), (dict(pick=3), TypeError, 'pick=3'),
    (dict(capacity=1), ValueError, 'capacity=1')])
def test_bad_arguments_are_refused(kwargs, error, match):
    with pytest.raises(error, match=match): DeadUnits(**kwargs)

def test_a_model_without_activation_modules_is_warned_of(learner):
    with pytest.warns(UserWarning, match='no activation modules.*layers='):
        learner(DeadUnits(), model=nn.Sequential(nn.Flatten(), nn.Linear(784, 10))).fit(1)

def test_the_picture(learner, settings):
    units = DeadUnits(window=4)
    with pytest.raises(ValueError, match='nothing to draw'): units.record.plot()
    learner([units, Push()], model=deadly()).fit(2, settings.lr/20)
    fig = units.record.plot()
    axes = [ax for ax in fig.axes if 'dead at the end' in ax.get_title()]
    assert len(axes) == 2 and '12 ' in axes[0].get_title()
    mesh = axes[1].collections[0].get_array()
    assert ((mesh < 0) == units.record.dead('4').T).all() and '<td' in units.record._repr_html_()
    assert '32 of 2 layers' in repr(units.record)
    assert len(units.record.plot('4').axes) == 2
