"""ChannelStats and DeadUnits against all activations kept, and where channels lie in outputs of many layers."""
import numpy as np
import pytest
import torch
from fastai.basics import Callback, CancelTrainException
from fastai.callback.training import GradientAccumulation
from helpers import Keep
from torch import nn

from fastai_actstats.all import ActStats, ChannelRecord, ChannelStats, DeadUnits, Record, compare
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

# every channel is a row

class Many(nn.Module):
    "Kinds of layers whose outputs have channels, in turn"
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 6, 5, stride=4), nn.BatchNorm2d(6), nn.ReLU()
        self.linear, self.layer_norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.lstm, self.tanh, self.head = nn.LSTM(8, 5, batch_first=True), nn.Tanh(), nn.Linear(5, 10)
    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = self.layer_norm(self.linear(x.permute(0, 2, 3, 1)).flatten(1, 2))
        x = self.attention(x, x, x)[0]
        return self.head(self.tanh(self.lstm(x)[0])[:, -1])

class Last(Many):
    "The same in torch's channels_last, and with a slice of an activation"
    def forward(self, x): return super().forward(x.contiguous(memory_format=torch.channels_last))

class Half(Many):
    def forward(self, x):
        with torch.autocast('cpu', dtype=torch.bfloat16): return super().forward(x).float()

AXES = dict(conv=1, norm=1, relu=1, linear=3, layer_norm=2, attention=2, lstm=2, tanh=2, head=1)

@pytest.mark.parametrize('model', [Many, Last, Half])
@pytest.mark.parametrize('kernel', ['auto', 'eager'])
def test_statistics_equal_all_activations_of_an_epoch(learner, settings, model, kernel):
    keep, stats = Keep(list(AXES)), ChannelStats(list(AXES), every=1, kernel=kernel)
    torch.manual_seed(0)
    learner([stats, keep], model=model()).fit(1, settings.lr/10)
    rec = stats.record
    assert list(rec.channels) == [n for n in AXES if n in rec.channels] and len(rec.channels) == len(AXES)
    for name, axis in AXES.items():
        one, kept = rec[name], [x.float().movedim(axis, 0).flatten(1).numpy() for x in keep.outputs(name)]
        assert one.layers == [f'{name}[{c}]' for c in range(len(kept[0]))] and rec.info[name]['axis'] == axis
        low, high = map(np.float32, ALIVE[rec.info[name]['kind']])
        for t, x in enumerate(kept):
            wide = x.astype(np.float64)
            std = wide.std(1, ddof=1)
            assert (one.count[t] == x.shape[1]).all() and not one.nonfinite[t].any()
            assert (one.min[t] == x.min(1)).all() and (one.max[t] == x.max(1)).all()
            assert (one.hist[t, :, 0] == ((x >= low) & (x <= high)).sum(1)).all()
            assert (one.underflow[t] == (x < low).sum(1)).all() and (one.overflow[t] == (x > high).sum(1)).all()
            assert (one.near_zero[t] == (np.abs(x) <= np.float32(.05)).mean(1)).all()
            np.testing.assert_allclose(one.std[t], std, rtol=1e-5, atol=1e-12)
            assert (np.abs(one.mean[t] - wide.mean(1)) <= 1e-5*std + 1e-7*np.abs(one.mean[t])).all()
    whole = rec.merged()
    for name, axis in AXES.items():
        x = np.concatenate([x.float().movedim(axis, 0).flatten(1).numpy().astype(float) for x in keep.outputs(name)], 1)
        np.testing.assert_allclose(whole[name].std[0], x.std(1, ddof=1), rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(whole[name].mean[0], x.mean(1), rtol=1e-5, atol=1e-6)

def spoken(keep, name):
    "bool [steps, C]: was any value alive?"
    return torch.stack([(x > 0).flatten(0, -2).any(0) for x in [o.movedim(1, -1) for o in keep.outputs(name)]]).numpy()

@pytest.mark.parametrize('every,capacity,silent', [(1, 64, 5), (1, 8, 5), (2, 64, 4), (1, 5, 1)])
def test_deaths_and_waking_by_step(learner, settings, every, capacity, silent):
    "Also after the ring was halved: what is silent as long as its columns is dead to a step"
    keep, stats = Keep(['1', '4']), ChannelStats(every=every, capacity=capacity, silent=silent)
    learner([stats, keep, Push()], model=deadly()).fit(4, settings.lr/20)
    rec = stats.record
    longest = int(rec.columns['steps'].max())*every
    assert len(rec) <= capacity and (longest > every) == (capacity*every < 56)
    for name in rec.channels:
        active = spoken(keep, name)[::every]
        want = fates(active, -(-max(silent, longest)//every))
        died, woke, deaths = rec.fates(name)
        assert (deaths == want[2]).all() and (woke == np.where(want[1] < 0, -1, want[1]*every)).all()
        begin = np.where(want[0] > 0, (want[0] - 1)*every + 1, want[0])  # after the last step alive that was seen
        assert (died == begin).all(), (died, begin)
        for t, (first, last) in enumerate(rec.steps):
            at = [np.flatnonzero(a)*every for a in active.T]
            at = [a[(a >= first) & (a <= last)] for a in at]
            assert rec[name].alive_steps[t].tolist() == [[a[0], a[-1]] if len(a) else [-1, -1] for a in at]
    if silent == 5 and capacity == 64: assert (rec.died('1')[2], rec.woke('1')[2]) == (16, 36)

def test_it_is_a_record_like_any_other(learner, settings, tmp_path):
    stats = ChannelStats(every=1, phase='both', silent=10)
    learn = learner([stats, ActStats(nn.ReLU), Push()], model=deadly())
    learn.fit(2, settings.lr/20)
    rec = stats.record
    assert rec.what == 'channels' and len(rec.train) == 28 and len(rec.valid) == 10
    assert rec['1'].mean.shape == (38, 12) and rec['1[7]'].layers == ['1[7]'] and rec['*'].layers == rec.layers
    assert rec[['4', '1[0]']].layers == [f'4[{c}]' for c in range(20)] + ['1[0]'] and rec[3].layers == ['1[3]']
    assert rec.epoch(1).train.died('1')[0] == 14
    whole, layers = rec.train.summary, learn.act_stats.record
    for name in ('1', '4'):  # channels merge to their layer
        own = rec.train[name].summary.over(1)
        assert (own.count.numpy() == layers[name].count[:, 0]).all()
        np.testing.assert_allclose(own.mean, layers[name].mean[:, 0], rtol=1e-6)
        np.testing.assert_allclose(own.std, layers[name].std[:, 0], rtol=1e-6)
    assert len(whole.rows) == 28
    rec.save(tmp_path/'run.npz', notes='channels')
    back = Record.load(tmp_path/'run.npz')
    assert isinstance(back, ChannelRecord) and back == rec.replace(notes='channels', made=back.made)
    assert back.table().equals(rec.table()) and (back.died('4') == rec.died('4')).all()
    assert len(rec.to_df()) == 38*32 and rec.heatmap() and compare(a=rec, b=back).table() is not None
    with pytest.raises(ValueError, match='one bin, which holds no quantiles'): rec.quantile(.5)
    with pytest.raises(IndexError, match="'9' is neither a layer whose channels were recorded .1, 4. nor a channel"):
        _ = rec['9']
    with pytest.raises(IndexError, match="layer '2' is not among the 2 whose channels were recorded: 1, 4"):
        rec.died('2')

@pytest.mark.parametrize('channel_dim,model,shape', [
    (3, lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), r'\(64, 10\), which has no axis channel_dim=3'),
    (None, lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10), Aside()), r'no dimension, shape \(\)')])
def test_what_has_no_channels_is_left_out_with_a_word(learner, settings, channel_dim, model, shape):
    stats = ChannelStats(['1', '2.mean'] if channel_dim is None else '1', channel_dim=channel_dim)
    with pytest.warns(UserWarning, match=f"layer '[12].*' is left out of the record: it returned a tensor of .*{shape}"
                      ".*layers=") as said:
        learner(stats, model=model()).fit(1, settings.lr/20)
    assert len(said) == 1

class Aside(nn.Module):
    "Gives the mean on to nobody"
    def __init__(self):
        super().__init__()
        self.mean = Mean()
    def forward(self, x):
        self.mean(x)
        return x

class Mean(nn.Module):
    def forward(self, x): return x.mean()

def test_where_there_are_no_activations_layers_with_parameters_are_watched(learner, settings):
    learner(stats := ChannelStats(), model=nn.Sequential(nn.Flatten(), nn.Linear(784, 10))).fit(1, settings.lr/20)
    assert list(stats.record.channels) == ['1']

def test_memory_is_what_repr_says(learner):
    "A ResNet-50's channels, every ReLU a module of its own: at most 160 MB"
    import torchvision
    with torch.device('meta'): model = torchvision.models.resnet50()
    sizes = []
    def note(m, i, o): sizes.append(o.shape[1])
    for m in model.modules():
        if isinstance(m, nn.ReLU): m.register_forward_hook(note)
    with torch.no_grad(): model.eval()(torch.zeros(1, 3, 64, 64, device='meta'))
    stats = ChannelStats()
    acc = stats.accumulator
    acc.add_layers([], torch.device('cpu'))
    for step in range(0, 4*70, 4):
        acc.begin_batch(True)
        acc.batch.step = step
        for i, n in enumerate(sizes): acc.channels(str(i), str(i), n)[:, 0] += 1
        acc.filled = True
        acc.end_batch((0, 0))
    held = [acc.rows, *(t for r in acc.rings.values() for t in (r.rows, r.waiting))]
    assert sum(sizes) == 22720 and sum(t.untyped_storage().nbytes() for t in held) <= acc.nbytes <= 160e6
    assert f'{acc.nbytes/2**20:.1f} MiB' in repr(stats) and acc.rings[False].stride == 2
