"""Structure; the images are those of an epoch."""

import pytest

pytestmark = pytest.mark.slow


def test_loader_step_and_both_are_of_the_same_images(measure):
    record = measure(
        "end_to_end", "--batch-size", 20, "--images", 40, "--workers", 1, "--repeats", 1
    )
    assert list(record["data"]) == ["jpeg", "digits"]
    # scikit-learn's digits: 1797, a quarter to test on and a quarter of the rest not to train on.
    images = {name: found["images"] for name, found in record["data"].items()}
    assert images["jpeg"] == 40 and images["digits"] in range(900, 1020)
    for found in record["data"].values():
        assert list(found["epochs"]) == ["loader alone", "step alone", "both"]
        for name, epoch in found["epochs"].items():
            rate = found["images"] / epoch["seconds"][0]
            assert found["images_per_s"][name] == [pytest.approx(rate)]


def test_one_data_set_can_be_chosen(measure):
    flags = ("--data", "jpeg", "--batch-size", 10, "--images", 10, "--workers", 0, "--repeats", 1)
    assert list(measure("end_to_end", *flags)["data"]) == ["jpeg"]
