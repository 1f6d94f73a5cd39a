"""Kinds, blocks and the residual stream of real architectures."""
import warnings

import pytest
import torch
from torch import nn

from fastai_actstats.all import ActStats, choose
from fastai_actstats.core.depth import blocks, kind
from fastai_actstats.core.layers import type_name


def on_meta(make):
    with torch.device('meta'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return make()

def timm_model(name):
    import timm
    return timm.create_model(name)

def encoder(): return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 3, enable_nested_tensor=False)

def resnet152():
    import torchvision
    return torchvision.models.resnet152()

def xresnet34():
    from fastai.vision.models.xresnet import xresnet34
    return xresnet34()

STREAMS = {'vit': (lambda: timm_model('vit_tiny_patch16_224'), [f'blocks.{i}' for i in range(12)]),
           'resnet152': (resnet152, [f'layer{s}.{i}' for s, n in enumerate((3, 8, 36, 3), 1) for i in range(n)]),
           'swin': (lambda: timm_model('swin_tiny_patch4_window7_224'),
                    [f'layers.{s}.blocks.{i}' for s, n in enumerate((2, 2, 6, 2)) for i in range(n)]),
           'densenet121': (lambda: timm_model('densenet121'), [f'features.denseblock{s}.denselayer{i + 1}'
                           for s, n in enumerate((6, 12, 24, 16), 1) for i in range(n)]),
           'xresnet34': (xresnet34, [f'{s}.{i}' for s, n in zip((4, 5, 6, 7), (3, 4, 6, 3)) for i in range(n)]),
           'encoder': (encoder, [f'layers.{i}' for i in range(3)])}

@pytest.mark.parametrize('name', STREAMS)
def test_the_residual_stream_is_what_the_model_repeats(name):
    make, stream = STREAMS[name]
    model = on_meta(make)
    assert list(choose(model, 'blocks')) == stream
    found = blocks(list(choose(model)))
    assert [b for b in dict.fromkeys(found) if b in stream] == stream
    of_weights = blocks([n for n, _ in model.named_parameters()])
    assert [b for b in dict.fromkeys(of_weights) if b in stream] == stream

def test_heads_and_experts_stay_in_their_block():
    class Expert(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(4, 4)
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln, self.experts = nn.LayerNorm(4), nn.ModuleList(Expert() for _ in range(3))
        def forward(self, x): return x + sum(e.fc(self.ln(x)) for e in self.experts)
    model = nn.Sequential(nn.Embedding(9, 4), *(Block() for _ in range(2)), nn.Linear(4, 9))
    assert list(choose(model, 'blocks')) == ['1', '2'] and set(blocks(list(choose(model)))) == {'', '1', '2'}

def test_a_model_without_blocks_says_so():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="layers='blocks' matches none of the 3 layers"): choose(model, 'blocks')
    named = nn.ModuleDict({'blocks': nn.Linear(4, 4)})
    assert list(choose(named, ['blocks'])) == ['blocks']

def test_kinds():
    model = on_meta(lambda: timm_model('vit_tiny_patch16_224'))
    kinds = {n: kind(n, type_name(m)) for n, m in choose(model).items()}
    one = {n.rpartition('blocks.3.')[2]: k for n, k in kinds.items() if n.startswith('blocks.3.')}
    assert one == {'norm1': 'norm', 'attn.qkv': 'attention', 'attn.proj': 'attention', 'norm2': 'norm',
                   'mlp.fc1': 'mlp', 'mlp.fc2': 'mlp'}
    assert kinds['patch_embed.proj'] in ('embedding', 'convolution') and kinds['head'] == 'linear'
    assert kind('layer1.0.bn1.bias', 'BatchNorm2d') == 'norm bias' and kind('relu:2', 'ReLU') == 'activation'

@pytest.mark.slow
def test_the_stream_is_recorded(learner, settings):
    class Block(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(8, 8)
        def forward(self, x): return x + self.fc(x).relu()
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), *(Block() for _ in range(3)), nn.Linear(8, 10))
    learn = learner(ActStats(layers='blocks'), model=model)
    learn.fit(1, settings.lr/10)
    rec = learn.act_stats.record
    assert rec.layers == ['2', '3', '4'] and rec.types['2'] == 'Block' and rec.count.all()
