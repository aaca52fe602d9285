"""The journal of a command that was stopped."""

import json

from vlseg.commands.journal import FILE, Journal

SETTINGS = {"labels": ["cat"]}


def test_lines_that_are_no_entries_are_passed_over(tmp_path):
    lines = [SETTINGS, [["a"], {}], [{}, {}], [None, {}], ["a", []], ["a"], 7, ["b", {"x": 1}]]
    (tmp_path / FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '["c')
    assert Journal(tmp_path, SETTINGS).entries == {"b": {"x": 1}}
