"""Whatever is written is written whole: killed writers, planted links, modes, names, and readers beside writers."""
import os
import random
import signal
import stat
import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest
import torch
from damage import mutant
from helpers import ROOT, make_record
from PIL import Image
from torch import nn

from fastai_actstats.all import LiveStats, Record, Sample, save_feature_maps
from fastai_actstats.core import disk
from fastai_actstats.core.disk import atomic, sweep


def sample(rows=40, value=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 7)).astype(np.float32) if value is None else np.full((rows, 7), value, np.float32)
    return Sample({'0': x, 'deep.er': x[:, ::2]}, np.arange(rows), target=np.arange(rows) % 3,
                  info=dict(seen=99, vocab=['a', 'b', 'c']))

def picture(size=(60, 40)):
    import io
    out = io.BytesIO()
    Image.effect_noise(size, 50).save(out, 'PNG')
    return out.getvalue()

def live(path):
    cb = LiveStats(path)
    return lambda: cb.show(picture())

def pages(folder):
    save_feature_maps(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()).eval(), torch.ones(1, 1, 8, 8), folder,
                      progress=False)

WRITERS = dict(record=lambda path: make_record().save(path), sample=lambda path: sample().save(path),
               live=lambda path: live(path)())

@pytest.fixture(params=WRITERS)
def writer(request): return WRITERS[request.param]

def test_the_mode_is_kept_and_a_new_file_has_the_usual_one(tmp_path, writer):
    old = os.umask(0o027)
    try:
        writer(tmp_path/'a')
        assert stat.S_IMODE((tmp_path/'a').stat().st_mode) == 0o640
        for mode in (0o600, 0o444, 0o666):
            (tmp_path/'a').chmod(mode)
            writer(tmp_path/'a')
            assert stat.S_IMODE((tmp_path/'a').stat().st_mode) == mode
    finally: os.umask(old)

def test_nothing_is_readable_by_others_while_a_private_file_is_written(tmp_path):
    (tmp_path/'a').write_bytes(b'old')
    (tmp_path/'a').chmod(0o600)
    with atomic(tmp_path/'a') as f:
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}
        f.write(b'new')
    assert (tmp_path/'a').read_bytes() == b'new'

def test_links_that_lie_in_the_way_are_not_followed(tmp_path, monkeypatch):
    victim = tmp_path/'victim'
    victim.write_bytes(b'precious')
    folder = tmp_path/'out'
    (folder/'thumbs').mkdir(parents=True)
    guesses = ['a.npz.part', f'.a.png.{os.getpid()}', 'index.html.part', '0000_0.png.part', 'thumbs/0000_0.png.part',
               'input.png.part',
               '.a.npz.00000000.tmp', '.actstats-0123456789abcdef.tmp']
    for name in guesses: (folder/name).symlink_to(victim)
    sample().save(folder/'a.npz')
    live(folder/'a.png')()
    pages(folder)
    make_record().save(folder/'a.npz')
    assert victim.read_bytes() == b'precious' and all((folder/name).is_symlink() for name in guesses)
    monkeypatch.setattr(disk.secrets, 'token_hex', lambda n: '0123456789abcdef')  # and if the name were known
    with pytest.raises(FileExistsError): sample().save(folder/'a.npz')
    assert victim.read_bytes() == b'precious' and Record.load(folder/'a.npz') == make_record()

def test_a_target_that_is_a_link_stays_one(tmp_path, writer):
    (tmp_path/'link').symlink_to(tmp_path/'deep'/'real')
    writer(tmp_path/'link')
    assert (tmp_path/'link').is_symlink() and (tmp_path/'deep'/'real').stat().st_size
    assert len(os.listdir(tmp_path/'deep')) == 1

def test_only_regular_files_are_replaced(tmp_path, writer):
    os.mkfifo(tmp_path/'pipe')
    (tmp_path/'folder').mkdir()
    for name in ('pipe', 'folder'):
        with pytest.raises(OSError, match='is there and no regular file'): writer(tmp_path/name)
    assert stat.S_ISFIFO((tmp_path/'pipe').stat().st_mode) and sorted(os.listdir(tmp_path)) == ['folder', 'pipe']

def test_names_may_be_as_long_as_the_disk_takes_them(tmp_path, writer):
    for name in ('n'*255, 'ä'*127):
        writer(tmp_path/name)
        assert (tmp_path/name).stat().st_size

class Named(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.add_module(name, nn.Conv2d(1, 300, 1))
    def forward(self, x): return next(self.children())(x)

@pytest.mark.parametrize('name', ['n'*300, 'ä'*300, '../'.replace('.', '')*9 + 'x', '<img src=x>'],
                         ids=['long', 'wide', 'slashes', 'markup'])
def test_layers_may_be_called_anything(tmp_path, name):
    df = save_feature_maps(Named(name).eval(), torch.ones(1, 1, 4, 4), tmp_path, progress=False)
    assert df.layer.tolist() == [name] and not df.error.any() and len(df.files[0]) == 2
    assert all((tmp_path/f).is_file() for f in [*df.files[0], df.thumb[0], 'index.html'])

def run(code, *args, **kwargs):
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, **kwargs)

@pytest.mark.slow
def test_what_another_process_is_writing_is_not_swept(tmp_path):
    code = ("import sys; from fastai_actstats.core.disk import atomic\n"
            "with atomic(sys.argv[1]) as f: f.write(b'x'*9); print(flush=True); input()")
    path = tmp_path/'a'
    writers = [run(code, path) for _ in range(2)]
    for w in writers: w.stdout.readline()
    with atomic(path) as f: f.write(b'mine')
    sweep(tmp_path)
    assert len(os.listdir(tmp_path)) == 3 and path.read_bytes() == b'mine'
    writers[0].communicate('\n')
    assert writers[0].returncode == 0 and path.read_bytes() == b'x'*9
    writers[1].kill()
    writers[1].communicate()
    assert len(os.listdir(tmp_path)) == 2
    with atomic(path) as f: f.write(b'mine')
    assert os.listdir(tmp_path) == ['a']

def test_a_sweep_between_making_and_locking_does_no_harm(tmp_path, monkeypatch):
    lock, calls = disk._lock, []
    def late(fd, wait=True):
        if wait and not calls:
            calls.append(fd)
            sweep(tmp_path)
        lock(fd, wait)
    monkeypatch.setattr(disk, '_lock', late)
    with atomic(tmp_path/'a', clean=False) as f: f.write(b'whole')
    assert calls and os.listdir(tmp_path) == ['a'] and (tmp_path/'a').read_bytes() == b'whole'

# writers that are killed: forked from one process that has imported everything
SERVER = """import os, sys
sys.path[:0] = sys.argv[1:3]
import torch
torch.set_num_threads(1)
import test_disk
test_disk.made()
test_disk.saver('pages', sys.argv[3])()
print('ready', flush=True)
for line in sys.stdin:
    what, path = line.split()
    if what == 'wait':
        os.waitpid(int(path), 0)
        print('dead', flush=True)
    else:
        save = test_disk.saver(what, path)
        if os.fork(): continue
        print(os.getpid(), flush=True)
        while True: save()
"""

def numbered(path):
    for n in range(10**9):
        yield Sample({'0': np.full((300, 40), n, np.float32)}, np.arange(300), info=dict(n=n)).save(path)

made = cache(lambda: dict(record=make_record(layers=20, steps=10), sample=sample(2000), live=picture((900, 700)),
                          x=torch.ones(1, 1, 8, 8),
                          model=nn.Conv2d(1, 64, 3).eval()))

def saver(kind, path):
    "What saves once when it is called, with little to do beside"
    if kind in ('record', 'sample'): return lambda: made()[kind].save(path)
    if kind == 'numbered': return numbered(path).__next__
    if kind == 'live':
        live = LiveStats(path)
        return lambda: live.show(made()[kind])
    return lambda: save_feature_maps(made()['model'], made()['x'], os.path.dirname(path), per_page=1, progress=False)

class Server:
    def __init__(self, folder):
        self.process = run(SERVER, os.path.dirname(__file__), ROOT/'tests', folder/'a')
        assert self.line() == 'ready'

    def line(self): return self.process.stdout.readline().strip()
    def tell(self, *words): print(*words, file=self.process.stdin, flush=True)

    def start(self, kind, path):
        self.tell(kind, path)
        return int(self.line())

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        self.tell('wait', pid)
        assert self.line() == 'dead'

@pytest.fixture(scope='module')
def server(tmp_path_factory):
    res = Server(tmp_path_factory.mktemp('server'))
    yield res
    res.process.communicate()

@pytest.mark.slow
@pytest.mark.xdist_group('disk')
def test_readers_beside_two_writers_find_whole_files(tmp_path, server):
    path, reads, end = tmp_path/'a.npz', set(), time.time() + 1
    Sample({'0': np.zeros((300, 40), np.float32)}, np.arange(300), info=dict(n=0)).save(path)
    writers = [server.start('numbered', path) for _ in range(2)]
    while time.time() < end or len(reads) < 5:
        back = Sample.load(path)
        assert (back.acts['0'] == back.info['n']).all()
        reads.add(back.info['n'])
    for w in writers: server.kill(w)

def whole(path):
    with Image.open(path) as image: image.verify()

def whole_page(path):
    text = (path.parent/'index.html').read_text()
    assert text.startswith('<!DOCTYPE html>') and text.endswith('</html>\n')
    for p in path.parent.rglob('*.png'): whole(p)

SAVES = dict(record='`Record.save`', sample='`Sample.save`', live='`LiveStats`', pages='`save_feature_maps`')
CHECKS = dict(record=Record.load, sample=Sample.load, live=whole, pages=whole_page)

@pytest.mark.slow
@pytest.mark.xdist_group('disk')
@pytest.mark.parametrize('kind', CHECKS)
def test_sixty_kills_leave_whole_files_and_nothing_stale(tmp_path, server, kind, record_row):
    path, rng, left, save = tmp_path/'a', random.Random(0), 0, saver(kind, tmp_path/'a')
    save()
    i = -1
    while (i := i + 1) < 60 or left < 5 and i < 600:  # on a busy machine a writer takes longer to begin
        pid = server.start(kind, path)
        time.sleep(rng.uniform(0, (.1 if kind == 'pages' else .02)*(1 + i//60)))
        server.kill(pid)
        CHECKS[kind](path)
        stale = list(tmp_path.rglob('.*'))
        left += len(stale)
        # what the one before left may still be there if this one came to nothing
        assert len(stale) <= 2 + (kind == 'pages')
        if i % 6 == 5:
            save()
            assert not list(tmp_path.rglob('.*'))
    assert left >= 5, 'hardly a kill came in the middle of a save'
    record_row('faults', f'killed sixty times in a save: {SAVES[kind]}',
               'yes, whole files', '-', 'yes, after the next save')

def test_a_sample_unpacks_to_no_more_than_asked_for(tmp_path):
    import tracemalloc
    path = tmp_path/'a.npz'
    # half a gigabyte in half a megabyte
    with atomic(path) as f: disk.write_arrays(f, dict(act0=np.zeros((2**17, 2**10), np.float32)))
    assert path.stat().st_size < 4_000_000
    tracemalloc.start()
    with pytest.raises(ValueError, match='not a saved Sample: it would unpack to more than limit='): Sample.load(path)
    with pytest.raises(ValueError, match='limit=1000 bytes'): Sample.load(path, limit=1000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    sample(100_000).save(path)
    tracemalloc.reset_peak()
    held = sum(a.nbytes for a in Sample.load(path).acts.values())
    assert tracemalloc.get_traced_memory()[1] < 2*held + 4_000_000  # once, and the few other arrays
    tracemalloc.stop()

def test_samples_of_all_kinds_come_back(tmp_path):
    path = tmp_path/'a.npz'
    for s in (sample(), sample(0), Sample({'a': np.ones((3, 2), np.float16)}, np.arange(3), np.array([0, 0, 1]),
                                          np.array(['x', 'yy', 'z']), np.ones((3, 2, 2), order='F')*[[1, 2], [3, 4]])):
        s.save(path)
        back = Sample.load(path)
        assert back.layers == s.layers and back.info == s.info
        for name in ('index', 'epoch', 'target', 'prediction'):
            np.testing.assert_array_equal(getattr(back, name), getattr(s, name))
        for n in s.layers: np.testing.assert_array_equal(back.acts[n], s.acts[n])
    meta = np.array('{"kind": "fastai_actstats.Sample", "version": 1, "layers": ["0"], "info": {}}')
    # of the version before
    np.savez_compressed(path, meta=meta, act0=np.asfortranarray(np.arange(6.).reshape(3, 2)), index=np.arange(3),
                        epoch=np.arange(3))
    np.testing.assert_array_equal(Sample.load(path).acts['0'], np.arange(6.).reshape(3, 2))

def test_a_thousand_mutated_samples_are_whole_or_refused(tmp_path):
    path, rng, loaded = tmp_path/'a.npz', np.random.default_rng(0), 0
    sample().save(path)
    data = path.read_bytes()
    for _ in range(1000):
        path.write_bytes(mutant(rng, data))
        try: back = Sample.load(path)
        except ValueError as e: assert 'is not a saved Sample' in str(e)
        else:
            loaded += 1
            assert repr(back) and len(back[:2].index) <= 2 and all(len(back.layer(n)) == len(back) for n in back.layers)
    assert loaded
