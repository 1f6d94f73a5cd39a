"""Watch a network's activations while it trains: fastai callbacks that keep small summaries, and the pictures that read them

Modules:

- `fastai_actstats.align`: What makes runs comparable: layers that answer each other, bins and steps that all of them have
- `fastai_actstats.bins`: Where the edges of a histogram's bins lie, and the arithmetic from a value to its bin
- `fastai_actstats.callbacks.checks`: What a check is, and how checks are run
- `fastai_actstats.callbacks.checks_data`: Checks of the batch that goes into the model
- `fastai_actstats.callbacks.preflight`: What can be known before the first epoch: data, loss, parameters and model fit each other
- `fastai_actstats.callbacks.trace`: What a model and its loss do in one pass, seen at every call of a torch function
- `fastai_actstats.callbacks.trial`: A learner's model, loss and one batch of its data, run before training and leaving no trace
- `fastai_actstats.callbacks.untouched`: A learner is used and stays as it was: its parts are kept and put back
- `fastai_actstats.dead_units`: The callback that watches which units are ever alive
- `fastai_actstats.distributed`: Several processes train together: one record of them all
- `fastai_actstats.feature_plots`: Pictures of feature maps
- `fastai_actstats.files`: A record in one compressed file, and back: no pickle, checked before a byte of it is believed
- `fastai_actstats.filters`: The kernels of a convolution, before and after training
- `fastai_actstats.gradients`: The gradients that arrive at the outputs of layers
- `fastai_actstats.health`: One report on all that was recorded: which layer, what is wrong, since when, on what evidence, what to try
- `fastai_actstats.kernels.cpu`: The reduction in one pass over memory, compiled by numba for the CPU
- `fastai_actstats.kernels.cuda`: The reduction in one pass over memory, compiled by triton for CUDA
- `fastai_actstats.kernels.eager`: The reduction of a tensor to a summary row, and the merging of rows, in plain torch on any device
- `fastai_actstats.live`: The colourful dimension and the statistics while the network trains
- `fastai_actstats.loggers`: What was recorded, in TensorBoard and Weights & Biases
- `fastai_actstats.look`: Running a trained model once, on an input of any kind, and leaving no trace of it
- `fastai_actstats.pictures`: More pictures of a record: heat map of layers against steps, ridge plot of a layer, first and last epoch side by side
- `fastai_actstats.ranks`: The records of processes that trained together: one time line, one record
- `fastai_actstats.recorder`: The time line of one callback: what its batches add up to, step by step
- `fastai_actstats.ring`: A fixed number of columns of summaries, for a run of any length
- `fastai_actstats.rules`: What a rule is, and what it has to measure with
- `fastai_actstats.samples`: A uniform sample of a layer's activations, of fixed size however large the data
- `fastai_actstats.save`: `SaveRecord` writes what was recorded after every epoch, so that a crash loses at most one
- `fastai_actstats.states`: What a model, a data loader and the random number generators are made of, kept and put back
- `fastai_actstats.summary`: `Summary`, what is kept of any number of values, and `fold`, which adds a tensor's values to one
- `fastai_actstats.units`: Which units were alive when: what `DeadUnits` recorded, as a table and a picture
- `fastai_actstats.watch`: Hooks that stay on a model exactly as long as its epochs run
- `fastai_actstats.weights`: Weights, their gradients, and the updates that the optimiser really made"""

__version__ = "0.0.1"
