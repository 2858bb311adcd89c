import errno
import math
import re
from pathlib import Path
from typing import Any

import pytest

from adacomcat.io.trace import EPOCHS, SEARCHES, Rows, TraceWriter, read_rows


def epoch(step: int, searches: int = 0) -> dict[str, Any]:
    return {"step_epoch": step, "searches": searches}


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "a.jsonl")
    rows.append({"x": 1, "name": "é\n"})
    rows.append({"x": None})
    rows.close()
    assert read_rows(tmp_path / "a.jsonl") == [{"x": 1, "name": "é\n"}, {"x": None}]
    assert read_rows(tmp_path / "absent.jsonl") == []


def test_a_line_cut_by_a_kill_is_left_out_and_the_next_row_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": 1}\n{"x": 2')
    assert read_rows(path) == [{"x": 1}]
    rows = Rows(path)
    rows.append({"x": 3})
    rows.close()
    assert path.read_text() == '{"x": 1}\n{"x": 3}\n'
    path.write_bytes(b'{"x"')
    rows = Rows(path)
    rows.append({"x": 4})
    rows.close()
    assert read_rows(path) == [{"x": 4}]


def test_a_spoiled_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\nnonsense\n{"x": 3}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not JSON"):
        read_rows(path)


def test_a_row_that_json_has_no_word_for_is_refused(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        rows.append({"loss": math.nan})
    rows.close()
    assert read_rows(tmp_path / "a.jsonl") == []


def test_a_full_disk_is_named_and_leaves_whole_rows(disk_of: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = Rows(path)
    rows.append({"x": 1})
    # In the middle of a row, and then with no byte left.
    for size in (15, 9):
        with disk_of(size), pytest.raises(OSError, match=re.escape(str(path))) as refusal:
            rows.append({"x": 2})
        assert refusal.value.errno in (errno.ENOSPC, errno.EFBIG)
        assert path.read_bytes() == b'{"x": 1}\n'
    rows.append({"x": 3})
    rows.close()
    assert read_rows(path) == [{"x": 1}, {"x": 3}]


def test_a_resumed_trial_writes_each_epoch_and_search_once(tmp_path: Path) -> None:
    first = TraceWriter(tmp_path)
    first.epoch(epoch(0))
    for step in (1, 2, 3):
        first.search({"index": step - 1, "attempt": 1})
        first.epoch(epoch(step, searches=step))
    first.close()
    # Resumed from the checkpoint after epoch 1: the search of epoch 2 comes first.
    second = TraceWriter(tmp_path)
    second.begin([epoch(0), epoch(1, searches=1)], [{"index": 0, "attempt": 1}])
    second.search({"index": 1, "attempt": 2})
    second.epoch(epoch(2, searches=2))
    second.close()
    assert read_rows(tmp_path / EPOCHS) == [epoch(0), epoch(1, 1), epoch(2, 2)]
    assert read_rows(tmp_path / SEARCHES) == [
        {"index": 0, "attempt": 1},
        {"index": 1, "attempt": 2},
    ]


@pytest.mark.parametrize("damaged", ["", '{"step_epoch": 0, "sear', "nonsense\n", "\0" * 20 + "\n"])
def test_what_a_checkpoint_holds_is_whole_again(tmp_path: Path, damaged: str) -> None:
    for name in (EPOCHS, SEARCHES):
        (tmp_path / name).write_text(damaged)
    writer = TraceWriter(tmp_path)
    writer.begin([epoch(0), epoch(1)], [{"index": 0}])
    writer.epoch(epoch(2))
    writer.close()
    assert read_rows(tmp_path / EPOCHS) == [epoch(0), epoch(1), epoch(2)]
    assert read_rows(tmp_path / SEARCHES) == [{"index": 0}]


def test_a_trial_that_begins_anew_leaves_nothing_of_before(tmp_path: Path) -> None:
    for attempt in range(2):
        writer = TraceWriter(tmp_path / "new")
        writer.epoch(epoch(attempt))
        writer.close()
    assert read_rows(tmp_path / "new" / EPOCHS) == [epoch(1)]
    assert read_rows(tmp_path / "new" / SEARCHES) == []
