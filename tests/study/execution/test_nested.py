import errno

import pytest
from ray.exceptions import OutOfMemoryError
from ray.train import WorkerGroupError

from adacomcat.checks import NonFiniteLoss
from study.execution.trial import failure_text, is_final


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (NonFiniteLoss("step 3"), True),
        (ValueError("a broken image"), True),
        (KeyError("label"), True),
        # What the other workers see when one of them is killed.
        (RuntimeError("Connection closed by peer [127.0.0.1]:1234"), False),
        (ConnectionResetError("reset"), False),
        (OutOfMemoryError("killed"), False),
        # A disk may be freed, and a full one ends the study elsewhere.
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_only_what_the_trial_itself_did_wrong_is_final(error: Exception, final: bool) -> None:
    assert is_final(error) is final


def test_a_failure_is_that_of_the_worker_whose_own_it_is() -> None:
    lost, own = RuntimeError("Connection closed by peer"), NonFiniteLoss("search phase, epoch 2")
    text = failure_text(WorkerGroupError("Traceback ...", {0: lost, 1: own}))
    assert text.startswith("NonFiniteLoss: search phase, epoch 2 (worker 1)\n\nTraining failed")
    assert "closed by peer" not in text and "Traceback ..." in text
    both = failure_text(WorkerGroupError("Traceback ...", {0: lost, 1: lost}))
    assert [line[-10:] for line in both.splitlines()[:2]] == ["(worker 0)", "(worker 1)"]
