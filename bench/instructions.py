"""What the CUDA kernel executes for a value, counted in its machine code: `python bench/instructions.py`

Needs no GPU: triton compiles for one that is not there, and brings NVIDIA's assembler. A multiprocessor starts 128
instructions of single threads in a cycle, so what stands in the loop bounds the speed wherever memory does not; this
is a bound, not a measured time."""
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pandas as pd
import torch
import triton
from measure import write
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastai_actstats.kernels import cuda

TYPES = {torch.float32: '*fp32', torch.bfloat16: '*bf16', torch.float16: '*fp16'}
RULE = dict(lo='fp32', hi='fp32', scale='fp32', eps='fp32', n='i32', hi_bits='i32', shift='i32', base='i32', side='i32')

def compiled(dtype, log, architecture):
    "`_read` for a GPU, with what its launch on an aligned tensor says at run time"
    made = dict(log=log, SLOTS=128, WAYS=cuda.WAYS, **cuda.tile(dtype))
    types = dict(x=TYPES[dtype], size='i32', row='*fp64', part='*fp64', **RULE, **dict.fromkeys(made, 'constexpr'))
    aligned = {(i,): [['tt.divisibility', 16]] for i in (0, 2, 3)}
    return triton.compile(ASTSource(cuda._read, types, made, aligned), target=GPUTarget('cuda', architecture, 32),
                          options=cuda.OPTIONS)

def tool(name, *args):
    "Run a tool of NVIDIA's that comes with triton"
    path = next(Path(triton.__file__).parent.rglob(name), None) or shutil.which(name)
    return subprocess.run([path, *args], capture_output=True, text=True, check=True).stdout

def loop(cubin):
    "The instructions of the loop over tiles of finite values, by name; registers a thread, bytes of stack"
    with tempfile.NamedTemporaryFile(suffix='.cubin') as f:
        f.write(cubin)
        f.flush()
        lines, registers = tool('nvdisasm', '-c', f.name).splitlines(), re.findall(
            r'REG:(\d+) STACK:(\d+)', tool('cuobjdump', '--dump-resource-usage', f.name))
    labels, names, loops = {}, [], [[]]
    for line in lines:
        if label := re.match(r'\s*(\.L_x_\d+):', line): labels[label[1]] = len(names)
        elif found := re.search(r'/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z]\w*)(.*)', line):
            names.append(found[1])
            back = re.search(r'`\((\.L_x_\d+)\)', found[2])
            if found[1] == 'BRA' and back and back[1] in labels: loops.append(names[labels[back[1]]:])
    return min((names for names in loops if 'ATOMS' in names), key=len), *map(int, registers[-1])

def main():
    rows = []
    for architecture in (80, 90):
        for dtype in TYPES:
            for log in (False, True):
                names, registers, stack = loop(compiled(dtype, log, architecture).asm['cubin'])
                rows.append({'GPU': f'sm_{architecture}', 'dtype': str(dtype).removeprefix('torch.'),
                             'bins': 'symlog' if log else 'linear',
                             'instructions a value': len(names)*32*cuda.WARPS/cuda.TILE,
                             'barriers a tile': names.count('BAR'),
                             'registers': registers, 'bytes spilled': stack})
    print(pd.DataFrame(rows).round(1).to_string(index=False))
    write('instructions', rows)

if __name__ == '__main__': main()
