"""Model families that must be recorded as they should be: name → a function that makes the model and its batches."""
from collections import OrderedDict
from dataclasses import dataclass

import torch
from fastai.basics import DataLoader, DataLoaders
from torch import nn

from fastai_actstats.demo import reference_cnn


def batches(x, y, bs=8):
    x = x if isinstance(x, tuple) else (x,)
    data = list(zip(*x, y))
    return DataLoaders(*(DataLoader(data, bs=bs, shuffle=False, n_inp=len(x), num_workers=0) for _ in range(2)),
                       device='cpu')

def images(size, channels=3, n=16): return torch.randn(n, channels, size, size), torch.randint(0, 5, (n,))

def _cnn(): return reference_cnn(), batches(torch.randn(16, 1, 28, 28), torch.randint(0, 5, (16,)))

def _xresnet():
    from fastai.vision.models.xresnet import xresnet18
    return xresnet18(n_out=5), batches(*images(32))

def _unet():
    from fastai.vision.models.unet import DynamicUnet
    from torchvision.models import resnet18
    body = nn.Sequential(*list(resnet18(weights=None).children())[:-2])
    x = torch.randn(4, 3, 32, 32)
    return DynamicUnet(body, 5, (32, 32)), batches(x, torch.randint(0, 5, (4, 32, 32)), 2)

def _resnet():
    from torchvision.models import resnet18
    return resnet18(weights=None, num_classes=5), batches(*images(32))

def _mobile():
    from torchvision.models import mobilenet_v3_small
    return mobilenet_v3_small(weights=None, num_classes=5), batches(*images(32))

def _timm():
    import timm
    return timm.create_model('convnext_atto', num_classes=5), batches(*images(32))

def _awd_lstm():
    from fastai.text.models import AWD_LSTM, get_text_classifier
    from fastai.text.models.awdlstm import awd_lstm_clas_config
    config = dict(awd_lstm_clas_config, emb_sz=16, n_hid=24, n_layers=2)
    model = get_text_classifier(AWD_LSTM, 50, 5, seq_len=8, config=config)
    return model, batches(torch.randint(2, 50, (16, 12)), torch.randint(0, 5, (16,)))

def _tabular():
    from fastai.tabular.model import TabularModel
    model = TabularModel([(6, 3), (4, 2)], 3, 5, [16, 8])
    return model, batches((torch.randint(0, 4, (16, 2)), torch.randn(16, 3)), torch.randint(0, 5, (16,)))

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=.1, batch_first=True), 2,
                                             enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)
    def forward(self, x): return self.head(self.encoder(self.embed(x)).mean(1))

def _transformer(): return Encoder(), batches(torch.randint(0, 50, (16, 12)), torch.randint(0, 5, (16,)))

@dataclass
class Output:
    states: tuple | None
    hidden: torch.Tensor

class Structured(nn.Module):
    "Nested tuples, None, a dictionary and a dataclass on the way"
    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTM(8, 12, 2), nn.GRU(12, 8), nn.Linear(8, 5)
        self.pack, self.dict = Pack(), AsDict()
    def forward(self, x):
        x, _ = self.lstm(x)
        x, h = self.gru(x)
        return self.head(self.dict(self.pack(x, h))['last'].mean(1))

class Pack(nn.Module):
    def forward(self, x, h): return Output((None, [None, x]), h)

class AsDict(nn.Module):
    def forward(self, o): return OrderedDict(mask=torch.ones(2, dtype=torch.bool), none=None, last=o.states[1][1])

def _structured(): return Structured(), batches(torch.randn(16, 6, 8), torch.randint(0, 5, (16,)))

class Shared(nn.Module):
    "One ReLU shared by two layers, one cell called at every position, one block skipped at random"
    def __init__(self):
        super().__init__()
        self.first, self.second, self.relu, self.cell, self.rare, self.never, self.head = (
            nn.Linear(8, 8), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.RNNCell(8, 8), nn.Linear(8, 8), nn.Linear(8, 8),
            nn.Linear(8, 5))
        self.calls = 0
    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        h = torch.zeros(len(x), 8)
        for t in range(x.shape[1]): h = self.cell(x[:, t], h)
        self.calls += self.training
        if self.calls % 2: h = self.rare(h)
        return self.head(h)

def _shared(): return Shared(), batches(torch.randn(16, 6, 8), torch.randint(0, 5, (16,)))

FAMILIES = {'reference CNN': _cnn, 'xresnet (fastai)': _xresnet, 'unet (fastai)': _unet,
            'ResNet-18 (torchvision)': _resnet, 'MobileNetV3 (torchvision)': _mobile, 'ConvNeXt (timm)': _timm,
            'AWD-LSTM (fastai)': _awd_lstm, 'tabular (fastai)': _tabular,
            'transformer encoder': _transformer, 'tuples, dicts, dataclasses': _structured,
            'shared, repeated, skipped layers': _shared}
