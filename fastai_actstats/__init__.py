"""Watch a network's activations while it trains: fastai callbacks that keep small summaries, and the pictures that read them

Modules:

- `fastai_actstats.bins`: Where the edges of a histogram's bins lie, and the arithmetic from a value to its bin
- `fastai_actstats.dead_units`: The callback that watches which units are ever alive
- `fastai_actstats.gradients`: The gradients that arrive at the outputs of layers
- `fastai_actstats.health`: One report on all that was recorded: which layer, what is wrong, since when, on what evidence, what to try
- `fastai_actstats.kernels.eager`: The reduction of a tensor to a summary row, and the merging of rows, in plain torch on any device
- `fastai_actstats.live`: The colourful dimension and the statistics while the network trains
- `fastai_actstats.loggers`: What was recorded, in TensorBoard and Weights & Biases
- `fastai_actstats.ring`: A fixed number of columns of summaries, for a run of any length
- `fastai_actstats.summary`: `Summary`, what is kept of any number of values, and `fold`, which adds a tensor's values to one
- `fastai_actstats.units`: Which units were alive when: what `DeadUnits` recorded, as a table and a picture
- `fastai_actstats.watch`: Hooks that stay on a model exactly as long as its epochs run, and the time line that they fill
- `fastai_actstats.weights`: Weights, their gradients, and the updates that the optimiser really made"""

__version__ = "0.0.1"
