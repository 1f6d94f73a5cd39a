"""How long pictures of many layers take: processor seconds to draw and to save each, for records of 5 to 500 layers.

    python bench/pictures.py                     # all networks
    python bench/pictures.py '121 layers'        # those whose name has this in it

Names and types of layers are those of real networks (`tests/drawn.py`); values are made up."""
import io
import sys
import time
import warnings
from pathlib import Path

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt

sys.path += [str(Path(__file__).parent.parent/'tests')]
from drawn import architectures, made_up, pictures

from fastai_actstats.all import compare


def main(chosen=''):
    warnings.simplefilter('ignore')
    print('| network | picture | seconds |\n|---|---|---|')
    for name, types in architectures().items():
        if chosen not in name: continue
        what = 'weights' if 'weights' in name else 'activations'
        rec, other = (made_up(types, what=what, seed=seed, grows=1. - seed) for seed in (0, 1))
        for picture, draw in pictures(rec, compare(grows=rec, steady=other)).items():
            begin = time.process_time()
            draw().savefig(io.BytesIO())
            print(f'| {name} | {picture} | {time.process_time() - begin:.1f} |', flush=True)
            plt.close('all')

if __name__ == '__main__': main(*sys.argv[1:])
