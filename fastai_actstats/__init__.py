"""Watch a network's activations while it trains: fastai callbacks that keep small summaries, and the pictures that read them

Modules:

- `fastai_actstats.analysis.align`: What makes runs comparable: layers that answer each other, bins and steps that all of them have
- `fastai_actstats.analysis.channels`: Which units were alive when: what `DeadUnits` recorded, as a table and a picture
- `fastai_actstats.analysis.report`: One report on all that was recorded: which layer, what is wrong, since when, on what evidence, what to try
- `fastai_actstats.analysis.rules`: What a rule is, and what it has to measure with
- `fastai_actstats.callbacks.base`: What all observing callbacks share
- `fastai_actstats.callbacks.channels`: The callback that watches which units are ever alive
- `fastai_actstats.callbacks.compat`: All that is private to torch or fastai, one function each
- `fastai_actstats.callbacks.distributed`: Several processes train together: one record of them all
- `fastai_actstats.callbacks.exchange`: What several processes hold, brought together through a store and with collectives of their own
- `fastai_actstats.callbacks.gradients`: The gradients that arrive at the outputs of layers
- `fastai_actstats.callbacks.hooks`: Hooks that stay on a model exactly as long as its epochs run
- `fastai_actstats.callbacks.live`: The colourful dimension and the statistics while the network trains
- `fastai_actstats.callbacks.loggers`: What was recorded, in TensorBoard and Weights & Biases
- `fastai_actstats.callbacks.observer`: What every observing callback is on a learner: a name of its own, and all that its record offers
- `fastai_actstats.callbacks.save`: `SaveRecord` writes what was recorded after every epoch, so that a crash loses at most one
- `fastai_actstats.callbacks.visitor`: A callback that may come, go and change its learner at any time
- `fastai_actstats.callbacks.weights`: Weights, their gradients, and the updates that the optimiser really made
- `fastai_actstats.core.accumulator`: The time line of one callback: what its batches add up to, step by step
- `fastai_actstats.core.files`: A record in one compressed file, and back: no pickle, checked before a byte of it is believed
- `fastai_actstats.core.markup`: HTML in which every name, note and number is text
- `fastai_actstats.core.ranks`: The records of processes that trained together: one time line, one record
- `fastai_actstats.core.ring`: A fixed number of columns of summaries, for a run of any length
- `fastai_actstats.core.samples`: A uniform sample of a layer's activations, of fixed size however large the data
- `fastai_actstats.core.steps`: Which optimiser step a batch belongs to, and whether it is kept
- `fastai_actstats.core.summary`: `Summary`: what is kept of any number of values, and how two of them make one
- `fastai_actstats.features.filters`: The kernels of a convolution, before and after training
- `fastai_actstats.features.pictures`: Pictures of feature maps
- `fastai_actstats.features.run`: Running a trained model once, on an input of any kind, and leaving no trace of it
- `fastai_actstats.kernels.bins`: Where the edges of a histogram's bins lie, and the arithmetic from a value to its bin
- `fastai_actstats.kernels.cpu`: The reduction in one pass over memory, compiled by numba for the CPU
- `fastai_actstats.kernels.cuda`: The reduction in one pass over memory, compiled by triton for CUDA
- `fastai_actstats.kernels.dispatch`: The one way into the kernels: what a tensor must be to be read, which kernel reads it, and what happens when that cannot
- `fastai_actstats.kernels.eager`: The reduction of a tensor to a summary row, and the merging of rows, in plain torch on any device
- `fastai_actstats.plots.distributions`: More pictures of a record: heat map of layers against steps, ridge plot of a layer, first and last epoch side by side"""

__version__ = "0.0.1"
