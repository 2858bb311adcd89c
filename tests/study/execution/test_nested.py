import errno

import pytest

from adacomcat.checks import NonFiniteLoss
from study.execution.nested import is_final
from study.execution.trial import TrialFailed, failure_text


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (NonFiniteLoss("step 3"), True),
        (ValueError("a broken image"), True),
        (KeyError("label"), True),
        # What the other workers see when one of them is killed.
        (RuntimeError("Connection closed by peer [127.0.0.1]:1234"), False),
        (ConnectionResetError("reset"), False),
        # A disk may be freed, and a full one ends the study elsewhere.
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_only_what_the_trial_itself_did_wrong_is_final(error: Exception, final: bool) -> None:
    assert is_final(error) is final


def test_the_record_of_a_worker_is_passed_on_as_it_is() -> None:
    text = "NonFiniteLoss: search phase, epoch 2\n\nTraceback ..."
    assert failure_text(TrialFailed(text)) == text
