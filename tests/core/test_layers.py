"""Which layers and parameters there are, by which names, and what never ran: real models, against plain hooks."""
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from families import batches
from fastai.basics import Callback, CrossEntropyLossFlat, Learner, OptimWrapper, set_seed
from helpers import Keep, LossTrace, findings, hooks_on, quiet, record_of, same
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from fastai_actstats.all import (
    ActStats,
    DeadUnits,
    GradStats,
    Record,
    SaveRecord,
    StopOnTrouble,
    WeightStats,
    diagnose,
    save_feature_maps,
)
from fastai_actstats.core.channels import makers
from fastai_actstats.core.layers import choose, named_layers, type_name
from fastai_actstats.features.filters import filter_weights

# models

class Mask(nn.Module):
    "Scores of what comes later are -inf"
    def forward(self, x): return x.masked_fill(torch.ones(x.shape[-2:], dtype=torch.bool).triu(1), -math.inf)

class Block(nn.Module):
    "Causal self-attention and a feed-forward part that calls `F.gelu`"
    def __init__(self, d):
        super().__init__()
        self.norm, self.qkv, self.mask, self.proj = nn.LayerNorm(d), nn.Linear(d, 3*d), Mask(), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2*d), nn.Linear(2*d, d)
    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + self.proj(self.mask(q@k.mT/q.shape[-1]**.5).softmax(-1)@v)
        return x + self.down(F.gelu(self.up(x)))

class GPT(nn.Module):
    "Looks its tokens up by hand; positions are a parameter of its own"
    def __init__(self, d=16, vocab=20, length=6):
        super().__init__()
        self.tokens, self.place = nn.Embedding(vocab, d), nn.Parameter(torch.randn(length, d)/9)
        self.blocks, self.head = nn.ModuleList([Block(d), Block(d)]), nn.Linear(d, vocab)
    def forward(self, x):
        x = self.tokens.weight[x] + self.place
        for block in self.blocks: x = block(x)
        return self.head(x)

class Lora(nn.Module):
    "A frozen layer, and a trained change to it of low rank"
    def __init__(self, module, rank=2):
        super().__init__()
        self.module = module.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, module.in_features)/9)
        self.B = nn.Parameter(torch.zeros(module.out_features, rank))
    def forward(self, x): return self.module(x) + x@self.A.T@self.B.T

class Scale(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
    def forward(self, x): return 100*self.module(x)

class Mixed(nn.Module):
    "Parameters in a list, that nothing but the module around it can use"
    def __init__(self):
        super().__init__()
        self.first, self.mix = nn.Linear(8, 8), nn.ParameterList([torch.ones(8), torch.zeros(8)])
    def forward(self, x): return self.first(x)*self.mix[0] + self.mix[1]

def vectors(): return batches(torch.randn(16, 8), torch.randint(0, 5, (16,)))
def tokens(n=20): return batches(torch.randint(0, n, (16, 6)), torch.randint(0, n, (16, 6)))
def mlp(wrap=lambda m: m): return nn.Sequential(wrap(nn.Linear(8, 8)), nn.ReLU(), wrap(nn.Linear(8, 5)))

def _encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=.1, batch_first=True, activation=F.gelu)
    return nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Linear(4, 8),
                         nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Flatten(), nn.Linear(16, 5))

def _vit():
    import timm
    return timm.create_model('vit_tiny_patch16_224', img_size=32, depth=1, embed_dim=24, num_heads=2, num_classes=5)

def _awd_lstm():
    from fastai.text.models import AWD_LSTM, get_language_model
    from fastai.text.models.awdlstm import awd_lstm_lm_config
    return get_language_model(AWD_LSTM, 20, config=dict(awd_lstm_lm_config, emb_sz=8, n_hid=12, n_layers=2))

def _quantised():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import torch.ao.quantization as q
        net = mlp().train()
        net.qconfig = q.get_default_qat_qconfig('fbgemm')
        return q.prepare_qat(net)

BLOCK = [f'{b}.{n}' for b in ('blocks.0', 'blocks.1') for n in ('norm', 'qkv', 'proj', 'up', 'down')]
MODELS = {  # name → model, data, the layers that are watched by default
    'small GPT, F.gelu, tokens looked up by hand': (GPT, tokens, ['tokens', *BLOCK, 'head']),
    'nn.TransformerEncoder': (_encoder, vectors,
                              ['1', *(f'2.layers.0.{n}' for n in ('self_attn', 'linear1', 'linear2', 'norm1', 'norm2')),
                               '4']),
    'AWD-LSTM language model (fastai)': (_awd_lstm, tokens, ['0.encoder', '0.encoder_dp', '0.rnns.0', '0.rnns.1',
                                                             '1.decoder']),
    'ViT (timm)': (_vit, lambda: batches(torch.randn(16, 3, 32, 32), torch.randint(0, 5, (16,))),
                   ['patch_embed.proj', *(f'blocks.0.{n}' for n in ('norm1', 'attn.qkv', 'attn.proj', 'norm2',
                                                                    'mlp.fc1', 'mlp.fc2')), 'norm', 'head']),
    'weight_norm': (lambda: mlp(parametrizations.weight_norm), vectors, ['0', '2']),
    'spectral_norm': (lambda: mlp(parametrizations.spectral_norm), vectors, ['0', '2']),
    'prepared for quantisation (QAT)': (_quantised, vectors, ['0', '2']),
    'LoRA by hand': (lambda: mlp(Lora), vectors, ['0', '2']),
    'parameters in a list': (lambda: nn.Sequential(Mixed(), nn.ReLU(), nn.Linear(8, 5)), vectors, ['0', '2'])}
NO_ACTIVATIONS = {'small GPT, F.gelu, tokens looked up by hand', 'nn.TransformerEncoder',
                  'AWD-LSTM language model (fastai)'}
NEVER_CALLED = {'tokens', '0.encoder'}  # their weights are used

class Weights(Callback):
    "What parameters, their gradients and changes are at each step, by direct reads"
    order = 56
    def before_fit(self): self.seen = []
    def copy(self): return {n: p.detach().clone() for n, p in self.learn.model.named_parameters()}
    def before_step(self):
        self.before = self.copy()
        self.grads = {n: p.grad.double().clone() for n, p in self.learn.model.named_parameters() if p.grad is not None}
    def after_step(self):
        after = self.copy()
        updates = {n: (after[n] - self.before[n]).double() for n in self.grads}
        self.seen.append(({n: p.double() for n, p in self.before.items()}, self.grads, updates))

def train(name, *cbs, epochs=2):
    set_seed(7)
    make, data, _ = MODELS[name]
    model, dls = make(), data()
    loss = CrossEntropyLossFlat(axis=-1)
    if 'AWD' in name: loss = lambda pred, y: F.cross_entropy(pred[0].flatten(0, 1), y.flatten())
    trace = LossTrace()
    learn = quiet(Learner(dls, model, loss_func=loss, cbs=[*cbs, trace]))
    learn.fit(epochs, 1e-2)
    return learn, (torch.stack(trace.seen), *model.state_dict().values(), torch.get_rng_state())

def close(rec, t, i, x):
    assert rec.count[t, i] == x.numel()
    np.testing.assert_allclose(rec.mean[t, i], x.mean(), rtol=1e-5, atol=1e-9*float(x.abs().max()))
    if x.numel() > 1: np.testing.assert_allclose(rec.std[t, i], x.std(), rtol=1e-5, atol=1e-10)

@pytest.mark.slow
@pytest.mark.parametrize('name', MODELS)
@pytest.mark.filterwarnings('ignore:.*reduce_range', 'ignore:dropout option adds', 'ignore:.*torch.ao.quantization')
def test_layers_and_parameters_of_real_models(name, tmp_path, record_row):
    layers, idle = MODELS[name][2], {n for n in MODELS[name][2] if n in NEVER_CALLED}
    watchers = ActStats(), GradStats(), WeightStats(), DeadUnits(), SaveRecord(tmp_path/'run.npz')
    plain, weights = Keep(layers), Weights()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        learn, watched = train(name, plain, weights, *watchers)
    said = [str(w.message) for w in said if 'records nothing' in str(w.message) or 'left out' in str(w.message)]
    assert len(said) == (name in NO_ACTIVATIONS)
    assert all('dead_units records nothing: the model has no activation modules' in s for s in said)
    rec, grads, stats = learn.act_stats.record, learn.grad_stats.record, learn.weight_stats
    assert rec.layers == grads.layers == layers and Record.load(tmp_path/'run.npz').layers == layers
    assert bool(learn.dead_units.record.layers) == (name not in NO_ACTIVATIONS)
    assert {n for n, c in zip(rec.layers, rec.count.any(0)) if not c} == idle
    for t, row in enumerate(plain.rows):
        for n in set(layers) - idle: close(rec, t, layers.index(n), row[n])
    assert (stats.record.layers == [n for n, _ in learn.model.named_parameters()] == stats.grads.layers
            == stats.updates.layers)
    assert len(stats.record) == len(weights.seen) == 4
    for t, parts in enumerate(weights.seen):
        for one, part in zip((stats.record, stats.grads, stats.updates), parts):
            for i, n in enumerate(one.layers):
                if n in part: close(one, t, i, part[n])
                else: assert one.count[t, i] == 0
    found = {(f.layer, f.finding) for f in diagnose(learn, ['never_ran', 'frozen', 'nonfinite'])}
    assert found == ({('0.module', 'frozen'), ('2.module', 'frozen')} if 'LoRA' in name else set())
    # parametrisations and QAT have hooks of their own
    assert set(hooks_on(learn.model)) == set(hooks_on(MODELS[name][0]()))
    assert same(watched, train(name)[1])
    record_row('models', name, 'yes', 'yes', 'yes')

def test_attention_is_seen_in_validation_too(record_row):
    "where torch would take a fast path that calls no layer, were there no hooks"
    set_seed(7)
    ours = ActStats(phase='both')
    learn = quiet(Learner(vectors(), _encoder(), loss_func=CrossEntropyLossFlat(), cbs=ours))
    learn.fit(1, 1e-3)
    assert ours.record.valid.count.shape == (2, 7) and (ours.record.valid.count == ours.record.train.count).all()
    record_row('phases', "phase='both', a transformer encoder, which would take its fast path", 'yes', '-', '-')

@pytest.mark.slow
def test_a_compiled_encoder_is_watched(record_row):
    def fit(*cbs):
        set_seed(7)
        trace, model = LossTrace(), _encoder()
        for m in model.modules():
            if isinstance(m, nn.Dropout): m.p = 0.
        learn = quiet(Learner(vectors(), torch.compile(model, backend='aot_eager'), loss_func=CrossEntropyLossFlat(),
                              cbs=[*cbs, trace]))
        learn.fit(1, 1e-2)
        return torch.stack(trace.seen)
    ours, weights = ActStats(), WeightStats()
    assert torch.equal(fit(ours, weights), fit())
    assert ours.record.layers == MODELS['nn.TransformerEncoder'][2] and (ours.record.count > 0).all()
    assert weights.record.layers == [n for n, _ in _encoder().named_parameters()] and (weights.updates.count > 0).all()
    record_row('training', 'torch.compile of a transformer encoder', 'yes', 'yes', '-')

def test_a_model_with_nothing_of_the_kind_trains_on_and_is_warned_of_once():
    set_seed(7)
    ours = DeadUnits()
    learn = quiet(Learner(tokens(), GPT(), loss_func=CrossEntropyLossFlat(axis=-1), cbs=[ours, StopOnTrouble()]))
    with pytest.warns(UserWarning, match='dead_units records nothing.*no activation modules.*layers=') as seen:
        learn.fit(1, 1e-3)
        learn.fit(1, 1e-3)
    assert sum('records nothing' in str(w.message) for w in seen) == 1
    assert len(ours.record) == 0 and not len(ours.record.table()) and not len(diagnose(learn))
    assert 'nothing recorded' in repr(ours)
    ours.layers = 'blocks.0.up'
    learn.fit(1, 1e-3)
    assert list(ours.record.channels) == ['blocks.0.up'], "it records when it has something to"

def test_a_model_without_real_parameters_is_warned_of():
    class Phase(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Parameter(torch.ones(5, dtype=torch.complex64))
        def forward(self, x): return (x[:, :5]*self.turn).real
    learn = quiet(Learner(vectors(), Phase(), loss_func=CrossEntropyLossFlat(),
                          opt_func=partial(OptimWrapper, opt=torch.optim.SGD), cbs=WeightStats()))
    with pytest.warns(UserWarning, match='weight_stats records nothing.*floating-point parameters'): learn.fit(1, 1e-3)
    assert len(learn.weight_stats.record) == len(learn.weight_stats.updates) == 0 and not len(diagnose(learn))

@pytest.mark.parametrize('watcher', [ActStats, GradStats, WeightStats, DeadUnits])
def test_layers_that_the_user_wrote_and_that_match_nothing_are_refused(watcher):
    with pytest.raises(ValueError,
                       match="layers='conv\\*' matches none of the 4 layers of the model: Sequential, 0, 1, 2"):
        quiet(Learner(vectors(), mlp(), loss_func=CrossEntropyLossFlat(), cbs=watcher('conv*'))).fit(1, 1e-3)

# what is a wrapper, and what is a layer

def test_only_what_torch_wraps_a_model_in_is_left_out_of_names():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
    from torch.optim.swa_utils import AveragedModel
    net, names = mlp(), ['Sequential', '0', '1', '2']
    for wrapped in (net, nn.DataParallel(net), AveragedModel(net), torch.compile(net),
                    nn.DataParallel(torch.compile(net)), checkpoint_wrapper(net)):
        assert list(named_layers(wrapped)) == names and list(choose(wrapped)) == ['0', '2']
    assert list(named_layers(nn.Sequential(checkpoint_wrapper(nn.Linear(2, 2)), nn.ReLU()))) == names[:3]
    assert list(named_layers(nn.Sequential(Scale(nn.Linear(2, 2))))) == ['Sequential', '0', '0.module']
    own = nn.DataParallel(nn.Linear(2, 2))
    own.scale = nn.Parameter(torch.ones(2))
    assert list(named_layers(own)) == ['DataParallel', 'module'], "what has parameters of its own is no wrapper"

def test_a_module_named_module_is_not_a_wrapper(record_row):
    set_seed(7)
    ours, plain = ActStats(['0', '0.module']), Keep(Scale)
    learn = quiet(Learner(vectors(), nn.Sequential(Scale(nn.Linear(8, 5))), loss_func=CrossEntropyLossFlat(),
                          cbs=[ours, plain]))
    learn.fit(1, 1e-3)
    rec = ours.record
    assert rec.layers == ['0', '0.module'] and rec.info['0']['type'] == 'Scale'
    np.testing.assert_array_equal(rec.max[:, 0], [row['0'].max() for row in plain.rows])
    np.testing.assert_allclose(rec.max[:, 0], 100*rec.max[:, 1], rtol=1e-6)
    # as of DataParallel
    saved = {'module.' + n: v + 1 for n, v in nn.Sequential(Scale(nn.Conv2d(1, 2, 3))).state_dict().items()}
    for weights in (saved, {n.removeprefix('module.'): v for n, v in saved.items()}):
        assert torch.equal(filter_weights(nn.Sequential(Scale(nn.Conv2d(1, 2, 3))), '0.module', weights),
                           saved['module.0.module.weight'])
    record_row('models', 'a module whose only child is named `module`', 'yes, as plain hooks', '-', '-')

def test_fully_sharded_modules_keep_their_names(tmp_path):
    from torch.distributed.fsdp import fully_shard
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        net = mlp()
        for m in (net[0], net[2], net): fully_shard(m, mesh=torch.distributed.init_device_mesh('cpu', (1,)))
        assert list(named_layers(net)) == ['Sequential', '0', '1', '2'] and type_name(net[0]) == 'Linear'
    finally: torch.distributed.destroy_process_group()

def test_types_are_those_the_user_wrote():
    lazy = nn.LazyLinear(3)
    assert [type_name(m) for m in (parametrizations.weight_norm(nn.Conv2d(1, 1, 1)), lazy,
                                   nn.ReLU())] == ['Conv2d', 'Linear', 'ReLU']

def test_attention_and_parametrised_layers_make_the_layout_of_what_follows():
    net = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.ReLU(), Lora(nn.Linear(5, 6)), nn.Tanh(),
                        nn.MultiheadAttention(8, 2), nn.GELU())
    before = makers(net)
    assert [before[m] for m in net] == [net[0], net[0], net[2].module, net[2].module, net[4].out_proj, net[4].out_proj]

@pytest.mark.parametrize('wrap', [parametrizations.weight_norm, parametrizations.spectral_norm, None])
@pytest.mark.filterwarnings('ignore:.*reduce_range', 'ignore:.*torch.ao.quantization')
def test_what_works_on_a_parameter_is_no_layer_of_a_page(wrap, tmp_path):
    table = save_feature_maps(mlp(wrap) if wrap else _quantised(), torch.randn(1, 8), tmp_path, progress=False)
    assert table.layer.tolist() == ['0', '1', '2'] and not table.error.any()
    assert table.type.tolist() == ['Linear', 'ReLU', 'Linear']

# names

class Net(nn.Module):
    "A child named like the class, and parameters named like what is recorded of them"
    def __init__(self):
        super().__init__()
        self.Net, self.register = nn.Linear(8, 5), None
        for n in ('w', 'w grad', 'w update', 'w weights', 'w gradients'):
            self.register_parameter(n, nn.Parameter(torch.full((5,), 1 + len(n)/9)))
    def forward(self, x):
        x = self.Net(x)*self.w
        for n in ('w grad', 'w update', 'w weights', 'w gradients'): x = x*getattr(self, n)
        return x

def test_names_of_parameters_do_not_meet():
    weights = Weights()
    learn = quiet(Learner(vectors(), Net(), loss_func=CrossEntropyLossFlat(), cbs=[WeightStats(), weights]))
    learn.fit(2, 1e-2)
    stats, names = learn.weight_stats, [n for n, _ in learn.model.named_parameters()]
    assert stats.record.layers == stats.grads.layers == stats.updates.layers == names and 'Net.weight' in names
    assert list(named_layers(learn.model)) == ['Net (model)', 'Net'] and stats.update_ratio().shape == (4, 7)
    for one, part in zip((stats.record, stats.grads, stats.updates), range(3)):
        for t, seen in enumerate(weights.seen):
            for i, n in enumerate(names): close(one, t, i, seen[part][n])

def test_parameters_that_come_between_fits():
    model = mlp()
    learn = quiet(Learner(vectors(), model, loss_func=CrossEntropyLossFlat(), cbs=WeightStats()))
    learn.fit(1, 1e-2)
    model.append(nn.Linear(5, 5))
    learn.create_opt()
    learn.fit(1, 1e-2)
    stats = learn.weight_stats
    assert stats.record.layers == [n for n, _ in model.named_parameters()]
    for one in (stats.record, stats.grads, stats.updates):
        assert (one.count > 0).tolist() == [[True]*4 + [False]*2]*2 + [[True]*6]*2

@pytest.mark.parametrize('watcher', [ActStats, DeadUnits])
def test_a_module_named_like_a_second_call(watcher):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.ReLU(), nn.Linear(8, 5)
            self.add_module('a:2', nn.ReLU())
        def forward(self, x):
            x = self.a(self.a(x) - .5)
            return self.head(getattr(self, 'a:2')(x[:2]).repeat(4, 1))
    ours = watcher(['a', 'a:2'], **({'calls': 2} if watcher is ActStats else {}))
    quiet(Learner(vectors(), Twice(), loss_func=CrossEntropyLossFlat(), cbs=ours)).fit(1, 1e-3)
    rec = ours.record
    if watcher is ActStats: counts = dict(zip(rec.layers, rec.count[0]))
    else: counts = {n: int(rec.count[0, at].sum()/2) for n, at in rec.channels.items()}
    assert counts == {'a': 64, 'a::2': 64, 'a:2': 16}

def test_long_names(tmp_path):
    net = nn.Sequential()
    for n in ('a'*300, 'a'*299 + 'b', 'é'*200): net.add_module(n, nn.Linear(8, 8))
    table = save_feature_maps(net, torch.randn(1, 8), tmp_path, progress=False)
    assert not table.error.any() and len({*table.files.str[0]}) == 3
    assert all((tmp_path/f).is_file() for f in table.files.str[0])
    learn = quiet(Learner(vectors(), net, loss_func=CrossEntropyLossFlat(),
                          cbs=[ActStats(), WeightStats(), SaveRecord(tmp_path/'run.npz')]))
    learn.fit(1, 1e-3)
    assert Record.load(tmp_path/'run.npz').layers == [n for n, _ in net.named_children()]

def test_lazy_parameters_are_watched_from_the_first_step(record_row):
    model, weights = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(5)), Weights()
    model.never = nn.LazyLinear(3)
    learn = quiet(Learner(vectors(), model, loss_func=CrossEntropyLossFlat(), cbs=[ActStats(), WeightStats(), weights]))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    weights.copy = lambda: {n: p.detach().clone() for n, p in model.named_parameters() if 'never' not in n}
    learn.fit(2, 1e-2)
    stats = learn.weight_stats
    assert len(stats.record) == 4 and stats.record.info['0.weight'] == dict(type='Linear', shape=(8, 8))
    assert learn.act_stats.record.count[:, :2].all()
    for t, seen in enumerate(weights.seen):
        for one, part in zip((stats.record, stats.grads, stats.updates), seen):
            for n, x in part.items(): close(one, t, one.layers.index(n), x)
    record_row('models', 'lazy layers', 'yes, from the first step on', '-', '-')

# what never ran

def test_what_took_no_part_is_told_from_what_was_used_in_another_way():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.lost, self.frozen = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, 5)
            self.frozen.requires_grad_(False)
        def forward(self, x): return self.head(F.linear(x, self.used.weight@self.frozen.weight))
    ours = ActStats()
    learn = quiet(Learner(vectors(), Model(), loss_func=CrossEntropyLossFlat(), cbs=ours))
    learn.fit(2, 1e-3)
    assert [(f.layer, f.finding) for f in ours.record.report('never_ran')] == [('lost', 'never-ran')]
    assert ours.record.layers == ['used', 'lost', 'frozen', 'head']

# masks

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.gpt, self.out, self.at, self.how = GPT(), nn.Identity(), None, 0
    def forward(self, x):
        x = self.gpt(x)
        self.how += self.training
        return self.out(x*math.nan if self.how == self.at else x)

def test_a_mask_is_no_trouble_and_a_nan_in_training_is():
    def fit(at):
        set_seed(7)
        model = Head()
        model.at = at
        learn = quiet(Learner(tokens(), model, loss_func=CrossEntropyLossFlat(axis=-1),
                              cbs=[ActStats([Mask, nn.Linear]), StopOnTrouble('nonfinite', every=1)]))
        if at:
            with pytest.warns(UserWarning, match='the fit is ended'): learn.fit(4, 1e-3)
        else: learn.fit(4, 1e-3)
        return learn.act_stats.record
    rec = fit(None)
    masks = [i for i, n in enumerate(rec.layers) if n.endswith('mask')]
    assert len(rec) == 8 and len(masks) == 2 and (rec.nonfinite[:, masks]/rec.count[:, masks] == 15/36).all()
    assert not rec.report('nonfinite')
    rec = fit(3)
    assert len(rec) == 4 and [(f.finding, f.since) for f in rec.report('nonfinite')] == [('nonfinite', 3)]

def test_masks_by_hand():
    x = torch.randn(40, 10, generator=torch.Generator().manual_seed(0))
    mask = x.masked_fill(torch.arange(10) > 6, -math.inf)
    more, nan = mask.clone(), x.clone()
    more[0, 0], nan[:, 3] = math.nan, math.nan
    def found(*steps): return findings(record_of(steps, type='Linear').report('nonfinite'))
    assert found(*[[x, mask, x]]*9, [x, mask[:11], x]) == found([x, mask, x]) == found(*[[mask]]*5) == []
    assert found(*[[x, mask, x]]*5, [x, more, x],
                 *[[x, mask, x]]*5) == [('l1', 'nonfinite', 5)], "one more than the mask"
    assert found(*[[x, mask, x]]*5, *[[x, more, x*math.nan]]*5) == [('l1', 'nonfinite', 5)]
    assert found(*[[x, mask, x]]*5, *[[nan, more, x]]*5) == [('l0', 'nonfinite', 5)]
    assert found(*[[x, x, x]]*5, *[[x, mask, x]]*5) == [('l1', 'nonfinite', 5)], "it was not there from the start"
    assert found(*[[x, nan, x*math.nan]]*5) == [('l1', 'nonfinite', 0)], "what comes after it is not finite"
    assert found([x, x, nan], *[[x*math.nan]*3]*5) == [('l2', 'nonfinite', 0)], "training breaks at the next step"
    assert found(*[[x, x*math.inf, x]]*5) == [('l1', 'nonfinite', 0)], "no mask hides all"
