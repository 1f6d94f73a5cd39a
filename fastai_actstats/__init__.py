"""Watch a network's activations while it trains: fastai callbacks that keep small summaries, and the pictures that read them

Modules:

- `fastai_actstats.bins`: Where the edges of a histogram's bins lie, and the arithmetic from a value to its bin
- `fastai_actstats.feature_plots`: Pictures of feature maps
- `fastai_actstats.filters`: The kernels of a convolution, before and after training
- `fastai_actstats.kernels.eager`: The reduction of a tensor to a summary row, and the merging of rows, in plain torch on any device
- `fastai_actstats.look`: Running a trained model once, on an input of any kind, and leaving no trace of it
- `fastai_actstats.ring`: A fixed number of columns of summaries, for a run of any length
- `fastai_actstats.samples`: A uniform sample of a layer's activations, of fixed size however large the data
- `fastai_actstats.summary`: `Summary`, what is kept of any number of values, and `fold`, which adds a tensor's values to one
- `fastai_actstats.watch`: Hooks that stay on a model exactly as long as its epochs run, and the time line that they fill"""

__version__ = "0.0.1"
