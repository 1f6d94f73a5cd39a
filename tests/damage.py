"""Damage to files that were saved: bytes cut, turned or put in, members of a zip changed, code hidden in a pickle."""
import io
import json
import zipfile

import numpy as np


def rezip(data, change, **kwargs):
    "The zip with its members changed by `change`: name → bytes"
    with zipfile.ZipFile(io.BytesIO(data)) as z: members = {n: z.read(n) for n in z.namelist()}
    change(members)
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items(): z.writestr(name, content)
    return out.getvalue()

def npy(a, pickled=False):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(a), allow_pickle=pickled)
    return out.getvalue()

class Bomb:
    "Creates a file when it is unpickled"
    path = None
    def __reduce__(self): return open, (self.path, 'w')

def swap(rng, members):
    "One of the arrays is another one"
    name = rng.choice(sorted(members))
    kind = rng.integers(8)
    if kind == 0: del members[name]
    elif kind == 1: members[name] = npy(np.array([Bomb(), 3], object), pickled=True)
    elif kind == 2: members[name] = members[rng.choice(sorted(members))]
    elif kind == 3: members[name] = npy(rng.integers(-9, 9, size=tuple(rng.integers(0, 40, size=rng.integers(0, 4)))))
    elif kind == 4: members['more.npy'] = npy(rng.random(3))
    elif kind == 5:  # right type and shape, other values
        a = np.load(io.BytesIO(members[name])).copy()
        flat = a.reshape(-1).view("u1")
        flat[rng.integers(len(flat))] ^= np.uint8(1 << rng.integers(8))
        members[name] = npy(a)
    elif kind == 6:  # a header that claims more than there is
        shape = (int(rng.choice([10**5, 10**12, 2**62])), 3)
        header = str(dict(descr='<i8', fortran_order=False, shape=shape)).encode().ljust(117) + b'\n'
        members[name] = members[name][:6] + b'\x01\x00v\x00' + header
    else:  # other words
        meta = json.loads(np.load(io.BytesIO(members['meta.npy'])).tobytes())
        meta[rng.choice(sorted(meta))] = [None, -1, 2**70, 'x', [], {}, [[]], 1e999, {'n': 10**9}][rng.integers(9)]
        members['meta.npy'] = npy(np.frombuffer(json.dumps(meta).encode(), 'u1'))

def mutant(rng, data):
    kind, data = rng.integers(5), bytearray(data)
    if kind == 0: return bytes(data[:rng.integers(len(data))])
    if kind == 1:
        for _ in range(rng.integers(1, 9)): data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        return bytes(data)
    if kind == 2:
        at, size = rng.integers(len(data)), rng.integers(1, 60)
        return bytes(data[:at]) + rng.bytes(size) + bytes(data[at + rng.integers(0, 2)*size:])
    return rezip(bytes(data), lambda members: swap(rng, members))
