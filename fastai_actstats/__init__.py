"""Watch a network's activations while it trains: fastai callbacks that keep small summaries, and the pictures that read them

Modules:

- `fastai_actstats.all`: Everything public: `from fastai_actstats.all import *`
- `fastai_actstats.analysis.activations`: The rules that read activations
- `fastai_actstats.analysis.align`: What makes runs comparable: layers that answer each other, bins and steps that all of them have
- `fastai_actstats.analysis.changes`: What changed abruptly, against the columns before; and what grew slowly, since when
- `fastai_actstats.analysis.channels`: The rules that read channels: dead ones, ones that run away, copies, one that holds all the energy, ignored inputs
- `fastai_actstats.analysis.compare`: Several runs beside each other: where do they differ, from when on, and how much
- `fastai_actstats.analysis.effects`: Many runs: in which of them a finding is, and where groups of them differ by more than their seeds
- `fastai_actstats.analysis.events`: What it was: the batch, one layer, the learning rate, a drift, or values that are no numbers
- `fastai_actstats.analysis.explain`: What happened in a run, in order, as text and as a table
- `fastai_actstats.analysis.formats`: What a number format would do to what was recorded
- `fastai_actstats.analysis.gradients`: The rules that read gradients
- `fastai_actstats.analysis.groups`: Runs that differ in a setting, and runs that differ in their seed only
- `fastai_actstats.analysis.report`: One report on all that was recorded: which layer, what is wrong, since when, on what evidence, what to try
- `fastai_actstats.analysis.rules`: What a rule is, and what it has to measure with
- `fastai_actstats.analysis.run`: A record and its run side by side: what changed abruptly, and in which columns
- `fastai_actstats.analysis.tails`: The rules that read the tails: outliers, and what a number format takes away
- `fastai_actstats.analysis.weights`: The rules that read weights, their gradients and their updates
- `fastai_actstats.callbacks.activations`: The activations of a network while it trains
- `fastai_actstats.callbacks.base`: What all observing callbacks share
- `fastai_actstats.callbacks.catch`: `CatchBatch` keeps the last batches, and writes them to a file when input, output, loss or a layer goes non-finite or jumps
- `fastai_actstats.callbacks.caught`: A batch that was caught: its items are shown again, and run again
- `fastai_actstats.callbacks.channels`: Statistics of every channel while a network trains
- `fastai_actstats.callbacks.checks.clock`: How long a check may run, and what it raises when it cannot go on
- `fastai_actstats.callbacks.checks.data`: Checks of the batch that goes into the model
- `fastai_actstats.callbacks.checks.learning`: Can one batch be learned?
- `fastai_actstats.callbacks.checks.loss`: Is the loss at the start what a blind guess gives?
- `fastai_actstats.callbacks.checks.losses`: A loss function of torch, as it was called
- `fastai_actstats.callbacks.checks.modes`: Checks of the modes, and of chance
- `fastai_actstats.callbacks.checks.numbers`: Do numbers fit their format?
- `fastai_actstats.callbacks.checks.of_outputs`: Checks of outputs and targets against the loss
- `fastai_actstats.callbacks.checks.outputs`: What an output comes out of, and how far it reaches
- `fastai_actstats.callbacks.checks.parameters`: Checks of parameters: does each one learn?
- `fastai_actstats.callbacks.checks.registry`: What a check is, and how checks are run
- `fastai_actstats.callbacks.checks.samples`: Checks of what an output depends on: other samples, later positions
- `fastai_actstats.callbacks.checks.steps`: Does a step help?
- `fastai_actstats.callbacks.checks.trace`: What a model and its loss do in one pass, seen at every call of a torch function
- `fastai_actstats.callbacks.checks.trial`: A learner's model, loss and one batch of its data, run before training and leaving no trace
- `fastai_actstats.callbacks.checks.units`: Checks of units, and of the signal on its way through the layers
- `fastai_actstats.callbacks.checks.untouched`: A learner is used and stays as it was: its parts are kept and put back
- `fastai_actstats.callbacks.compat`: All that is private to torch or fastai, one function each
- `fastai_actstats.callbacks.diagnose`: Everything that a learner's callbacks recorded, judged together
- `fastai_actstats.callbacks.distributed`: Several processes train together: one record of them all
- `fastai_actstats.callbacks.exchange`: What several processes hold, brought together through a store and with collectives of their own
- `fastai_actstats.callbacks.gradients`: The gradients that arrive at the outputs of layers
- `fastai_actstats.callbacks.hooks`: Hooks that stay on a model exactly as long as its epochs run
- `fastai_actstats.callbacks.interrupts`: A signal that ends the process lets a callback write first, then does what it would have done
- `fastai_actstats.callbacks.live`: The colourful dimension and the statistics while the network trains
- `fastai_actstats.callbacks.loading`: In which order a data loader takes the items of its data set
- `fastai_actstats.callbacks.loggers`: What was recorded, in TensorBoard, Weights & Biases, MLflow and trackio
- `fastai_actstats.callbacks.made`: How a run was made: what its records and their files say of it without being asked
- `fastai_actstats.callbacks.observer`: What callbacks of this package share: they come and go, have a name of their own, and offer all that a record does
- `fastai_actstats.callbacks.preflight`: What can be known before the first epoch: data, loss, parameters and model fit each other
- `fastai_actstats.callbacks.run`: Loss, learning rates, input, output and target of each batch, beside the activations
- `fastai_actstats.callbacks.sample`: A sample of activations at the end of every epoch
- `fastai_actstats.callbacks.save`: `SaveRecord` writes what was recorded: with each epoch, every so many seconds, and when the fit is ended from outside
- `fastai_actstats.callbacks.sinks`: Where statistics go to: TensorBoard, Weights & Biases, MLflow, trackio, or what you write yourself
- `fastai_actstats.callbacks.weights`: Weights, their gradients, and the updates that the optimiser really made
- `fastai_actstats.cli`: The shell command `actstats`: records in files are described, judged, drawn, compared and handed on
- `fastai_actstats.core.accumulator`: The time line of one callback: what its batches add up to, step by step
- `fastai_actstats.core.arguments`: Arguments are checked when they are given, by functions that say in one sentence what was given and what there is
- `fastai_actstats.core.batches`: Batches in a file: nested tensors, who they were and the state of the random number generators, without pickle
- `fastai_actstats.core.channel_accumulator`: The time line of channels: a row for every channel, as soon as it is known how many a layer has
- `fastai_actstats.core.channel_ranks`: Records of channels that are merged over processes
- `fastai_actstats.core.channel_record`: What was recorded of channels: a record whose second axis is channels, and when each of them died
- `fastai_actstats.core.channels`: Which axis of an output holds the channels, and where a channel's values are alive
- `fastai_actstats.core.columns`: What a column of a record stands for: steps, epochs, fits, phase; and how columns join
- `fastai_actstats.core.deaths`: When a channel died and when it came back, from the first and last steps at which it was alive in each column
- `fastai_actstats.core.depth`: What kind each recorded layer is of, and in which repeated block of the network it stands
- `fastai_actstats.core.disk`: Any file written whole or not at all, and arrays read back within limits
- `fastai_actstats.core.files`: A record in one compressed file, and back: no pickle, checked before a byte of it is believed
- `fastai_actstats.core.layers`: Choosing layers of a model by name, type or predicate, and picking the tensor out of what a layer returns
- `fastai_actstats.core.markup`: HTML in which every name, note and number is text
- `fastai_actstats.core.ranks`: The records of processes that trained together: one time line, one record
- `fastai_actstats.core.record`: What was recorded: arrays over columns and layers, on the host
- `fastai_actstats.core.reservoir`: A uniform sample of a stream of items, decided batch by batch before the items are seen
- `fastai_actstats.core.resume`: A time line goes on where a saved record ends: steps, epochs and fits count on, and columns go on merging
- `fastai_actstats.core.ring`: A fixed number of columns of summaries, for a run of any length
- `fastai_actstats.core.run`: What the run itself did, beside the layers: its loss, learning rates, input, output and target
- `fastai_actstats.core.samples`: A uniform sample of a layer's activations, of fixed size however large the data
- `fastai_actstats.core.selection`: Which of the recorded layers are meant: by index, name, glob pattern, slice or a list of these
- `fastai_actstats.core.states`: What a model, a data loader and the random number generators are made of, kept and put back
- `fastai_actstats.core.steps`: Which optimiser step a batch belongs to, and whether it is kept
- `fastai_actstats.core.summary`: `Summary`: what is kept of any number of values, and how two of them make one
- `fastai_actstats.core.tables`: A record as a table, as text and as HTML
- `fastai_actstats.core.verdict`: Which of a step's numbers are non-finite, and which jump; told by few numbers, without waiting for the device
- `fastai_actstats.demo`: The main job: train the reference CNN on real digits with and without batchnorm, and see what its activations did
- `fastai_actstats.features.embedding`: A sample of activations in two dimensions, and as a table of items against units
- `fastai_actstats.features.evaluation`: The state in which a trained model is run: eval mode, gradients off, and all put back afterwards
- `fastai_actstats.features.filters`: The kernels of a convolution, before and after training
- `fastai_actstats.features.inputs`: From what a user has at hand to what the model takes
- `fastai_actstats.features.maps`: The table of a model's layers, and their maps, one layer at a time
- `fastai_actstats.features.pages`: Every map of a network on disk, with a page to open in a browser
- `fastai_actstats.features.pictures`: Pictures of feature maps
- `fastai_actstats.features.run`: Running a trained model once on an input of any kind, with hooks, and leaving no trace of it
- `fastai_actstats.features.sampling`: Samples of activations from a trained model
- `fastai_actstats.kernels.announce`: A pause of some seconds is said, with a bar as fastai has them
- `fastai_actstats.kernels.bins`: Where the edges of a histogram's bins lie, and the arithmetic from a value to its bin
- `fastai_actstats.kernels.channels`: Each channel's values become a row: the layout of such rows, the reduction in plain torch, and which kernel does it
- `fastai_actstats.kernels.channels_cpu`: The reduction of every channel of an output in one pass over memory, compiled by numba for the CPU
- `fastai_actstats.kernels.channels_cuda`: The reduction of every channel of an output in one pass over memory, compiled by triton for CUDA
- `fastai_actstats.kernels.cpu`: The reduction in one pass over memory, compiled by numba for the CPU
- `fastai_actstats.kernels.cuda`: The reduction in one pass over memory, compiled by triton for CUDA
- `fastai_actstats.kernels.dispatch`: The one way into the kernels: what a tensor must be to be read, which kernel reads it, and what happens if that fails
- `fastai_actstats.kernels.eager`: The reduction of a tensor to a summary row, and the merging of rows, in plain torch on any device
- `fastai_actstats.plots.axes`: What all pictures share: step axes, epoch marks, ticks, titles, grids of panels
- `fastai_actstats.plots.channels`: Channels as pictures: one layer's against step, dead ones of all layers, those of a finding beside their layer
- `fastai_actstats.plots.comparison`: Pictures of several runs beside each other: the colourful dimension, statistics, and where the runs part
- `fastai_actstats.plots.depth`: A statistic against depth, one line a moment of training
- `fastai_actstats.plots.distributions`: Distributions of a record: ridge plot of a layer, first and last epoch side by side
- `fastai_actstats.plots.explain`: What happened, as one picture: loss, learning rate and layers on one step axis
- `fastai_actstats.plots.formats`: Exponents against steps with the limits of formats, and what a format would lose, layer by layer
- `fastai_actstats.plots.glance`: The one picture to look at first
- `fastai_actstats.plots.heat`: A statistic of every layer against step, as colour
- `fastai_actstats.plots.lines`: Statistics against step, a line a layer
- `fastai_actstats.plots.live`: The picture that is drawn while a network trains
- `fastai_actstats.plots.overview`: Many runs in one picture: a statistic of every layer, runs ordered by how well they did
- `fastai_actstats.plots.page`: One file to hand to a colleague: what was recorded, to zoom into and to search, in any browser and without a network
- `fastai_actstats.plots.page_data`: What a page of a run holds: records as the browser unpacks them, and where a finding is seen
- `fastai_actstats.plots.page_parts`: The parts of a page as HTML: the report, what was trained, controls, places for pictures, a table
- `fastai_actstats.plots.steps`: The colourful dimension of a record: one column a step, the histogram of a layer as colour
- `fastai_actstats.plots.text`: Names of layers that fit into a picture
- `fastai_actstats.plots.tiles`: Many small panels, each named, in a figure that is read by scrolling
- `fastai_actstats.plots.zoom`: Which values are drawn: all bins, those that are used, or those between two values
- `fastai_actstats.shell`: What the verbs of `actstats` share: files are read or refused in a sentence, results are told and written"""

from importlib import import_module
from sys import modules as modules_loaded
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis.compare import compare as compare
    from .core.ranks import merge_records as merge_records
    from .core.record import Record as Record
    from .kernels.bins import Bins as Bins

__version__ = "0.0.1"

# Records and comparisons in a script: `from fastai_actstats import Record, compare` loads no fastai, and their pictures
# and reports, which other modules give them, are loaded when one is first asked for.
_PUBLIC = {'Record': 'core.record', 'compare': 'analysis.compare', 'merge_records': 'core.ranks', 'Bins': 'kernels.bins'}
_GIVEN = {  # class → module that gives it methods → these
    'core.record.Record': {'analysis.report': ['report'], 'analysis.explain': ['explain'],
                           'analysis.formats': ['fits', 'formats'], 'plots.steps': ['color_dim'],
                           'plots.lines': ['plot_stats'], 'plots.heat': ['heatmap'], 'plots.depth': ['plot_depth'],
                           'plots.distributions': ['ridge', 'first_last'], 'plots.glance': ['show'],
                           'plots.formats': ['plot_exponents', 'plot_format'], 'plots.page': ['to_html']},
    'core.channel_record.ChannelRecord': {'plots.channels': ['plot', 'channel_map', 'plot_dead', 'plot_channels']},
    'analysis.compare.Comparison': {'analysis.effects': ['effects', 'report'],
                                    'plots.comparison': ['color_dim', 'plot_stats', 'difference'],
                                    'plots.overview': ['overview'],
                                    'plots.page': ['to_html']},
    'analysis.explain.Explanation': {'plots.explain': ['plot']}, 'analysis.report.Report': {'plots.page': ['to_html']}}

class _Given:
    "Stands in a class for a method that a module gives it, until it is first asked for"
    def __init__(self, cls, name, module): self.cls, self.name, self.module = cls, name, module

    def __get__(self, obj, owner=None):
        import_module(self.module)
        _give_methods()  # to classes that came with it
        if vars(self.cls)[self.name] is self:  # the module, being loaded, asks whether there is one already
            raise AttributeError(f"{self.cls.__name__} has no attribute {self.name!r} yet")
        return getattr(owner if obj is None else obj, self.name)

def _give_methods():
    "What is loaded already is left as it is"
    for path, modules in _GIVEN.items():
        place, _, name = path.rpartition('.')
        if place in (*_PUBLIC.values(), 'core.channel_record'): import_module(f'{__name__}.{place}')
        elif f'{__name__}.{place}' not in modules_loaded: continue
        cls = getattr(modules_loaded[f'{__name__}.{place}'], name)
        for module, methods in modules.items():
            for method in methods:
                there = vars(cls).get(method)  # a plain one of its own gives way, as `fits` does
                if there is None or getattr(getattr(there, 'fget', None), '__module__', None) == cls.__module__:
                    setattr(cls, method, _Given(cls, method, f'{__name__}.{module}'))

def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; all public names are in {__name__}.all")
    _give_methods()
    return getattr(import_module(f'{__name__}.{_PUBLIC[name]}'), name)

def __dir__(): return sorted({*globals(), *_PUBLIC})
