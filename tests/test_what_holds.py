"""The page of what holds: its command runs every test that notes a line, and a line is written as it was noted."""
import what_holds
from helpers import ROOT


def test_its_command_runs_every_test_that_notes_a_line():
    named = [ROOT/word for word in what_holds.COMMAND.split() if word.startswith('tests/')]
    assert named and all(path.exists() for path in named)
    for file in (ROOT/'tests').rglob('test_*.py'):
        if 'record_row(' in file.read_text().replace("'record_row('", ''):
            assert any(file == path or path in file.parents for path in named), file

def test_a_line_is_written_as_it_was_noted(monkeypatch):
    monkeypatch.setitem(what_holds.ROWS, 'phases', {"phase='train'": ('yes', 'yes', '-')})
    assert "| Phases | recorded as it should be | training untouched | nothing left |" in what_holds.page()
    assert "| phase='train' | yes | yes | - |" in what_holds.page()
