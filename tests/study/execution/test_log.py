import logging
import threading
import warnings
from pathlib import Path

import pytest

from study.execution.log import study_log


def test_what_ray_prints_goes_to_the_log_with_the_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.log"
    with study_log(path):
        print("a line of the study's")
        listener = threading.Thread(
            target=lambda: print("(raylet) Raylet is terminated."), name="ray_listen_error_messages"
        )
        listener.start()
        listener.join()
        warnings.warn("careful", stacklevel=1)
        logging.getLogger("ray.tune").error("of Tune")
    assert capsys.readouterr() == ("a line of the study's\n", "")
    text = path.read_text()
    for part in ("WARNING study.execution.log: (raylet) Raylet is", "careful", "ray.tune: of Tune"):
        assert part in text
    print("again")
    assert capsys.readouterr().out == "again\n"
