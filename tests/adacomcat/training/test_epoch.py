import pytest
import torch
from torch import nn

from adacomcat.checks import NonFiniteLoss
from adacomcat.config import PhaseConfig
from adacomcat.training.epoch import evaluate, train_epoch
from adacomcat.training.optim import build_optimizer
from adacomcat.training.phase import Phase


def batches(count, size=8):
    torch.manual_seed(0)
    return [(torch.randn(size, 6), torch.randint(3, (size,))) for _ in range(count)]


def test_evaluation_counts_every_image_once_in_short_batches_too():
    model, data = nn.Linear(6, 3), [*batches(3), *batches(1, size=3)]
    accuracy, loss = evaluate(model, data, PhaseConfig())
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    logits = model(x)
    assert accuracy == pytest.approx((logits.argmax(1) == y).double().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-6)


def test_an_evaluation_on_nothing_is_refused():
    with pytest.raises(ValueError, match="images: got 'none that can be read'"):
        evaluate(nn.Linear(6, 3), [], PhaseConfig())


def test_an_epoch_is_plain_training_step_by_step():
    phase = PhaseConfig(lr=1e-2, batch_size=8, label_smoothing=0.2, clip_grad=0.5)
    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    twin = nn.Linear(6, 3)
    twin.load_state_dict(model.state_dict())
    data = batches(5)
    stats = train_epoch(Phase(model, phase), data, num_classes=3)
    optimizer, losses = build_optimizer(twin, phase), []
    for x, y in data:
        loss = nn.functional.cross_entropy(twin(x), y, label_smoothing=0.2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert torch.equal(model.weight, twin.weight)
    assert stats.loss == pytest.approx(sum(losses) / 5)
    assert stats.base_loss == stats.loss and stats.images == 40


@pytest.mark.parametrize("bad", [0, 7, 60])
def test_the_first_bad_step_is_named(bad):
    data = batches(70)
    data[bad][0].fill_(torch.inf)
    with pytest.raises(NonFiniteLoss, match=rf"at step {bad}$"):
        train_epoch(Phase(nn.Linear(6, 3), PhaseConfig()), data, num_classes=3)


def test_means_are_over_images_not_batches():
    phase = PhaseConfig(lr=1e-30, weight_decay=0.0, label_smoothing=0.0)
    data = [*batches(2), *batches(1, size=3)]
    model = nn.Linear(6, 3)
    stats = train_epoch(Phase(model, phase), data, num_classes=3)
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    assert stats.images == 19
    assert stats.loss == pytest.approx(nn.functional.cross_entropy(model(x), y).item(), rel=1e-6)
