import copy
import shutil

import numpy
import pytest
import torch
import torch._dynamo
from torch import nn

from adacomcat.config import BudgetConfig, DistillConfig, PhaseConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_vit
from adacomcat.training.epoch import train_epoch
from adacomcat.training.phase import Phase

ALONE = DistillConfig(kind="none", align_blocks=())
TAUGHT = DistillConfig(kind="soft", align_blocks=(0, -1))
GRAPHS = 3
"""That dynamo is to keep for one piece of code; its default is more, each takes a second."""


def tiny(seed, depth=2):
    return tiny_vit(
        seed=seed, depth=depth, img_size=8, embed_dim=16, num_heads=2, num_classes=5, in_chans=1
    )


def batches(count, size=10):
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(size, 1, 8, 8, generator=generator),
            torch.randint(5, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("distill", [ALONE, TAUGHT], ids=["alone", "taught"])
@pytest.mark.parametrize(("parts", "sizes"), [(2, [5, 5]), (5, [2] * 5), (10, [1] * 10)])
def test_parts_of_a_batch_add_up_to_the_batch(distill, parts, sizes):
    images, labels = batches(1)[0]
    found = {}
    for accumulate in (1, parts):
        recipe = PhaseConfig(batch_size=10, accumulate=accumulate, distill=distill)
        model, seen = tiny(0), []
        model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        phase = Phase(model, recipe, tiny(1))
        with phase.training():
            losses = phase.step(images, labels, 0.5)
        found[accumulate] = losses, gradients(model), seen
    assert found[1][2] == [10] and found[parts][2] == sizes
    torch.testing.assert_close(found[parts][0], found[1][0])
    torch.testing.assert_close(found[parts][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_uneven_parts_count_by_their_images():
    images, labels = batches(1)[0]
    model, whole = tiny(0), tiny(0)
    phase = Phase(model, PhaseConfig(batch_size=12, accumulate=4, distill=ALONE))
    with phase.training():
        phase.step(images, labels, 0.0)  # 3, 3, 3 and 1
    nn.functional.cross_entropy(whole(images), labels, label_smoothing=0.1).backward()
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_once_over_all_parts():
    images, labels = batches(1)[0]
    recipe = PhaseConfig(batch_size=10, accumulate=5, clip_grad=1e-3, distill=ALONE)
    model = tiny(0)
    phase = Phase(model, recipe)
    with phase.training():
        phase.step(images, labels, 0.0)
    norm = torch.cat([g.flatten() for g in gradients(model).values()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_mixup_mixes_the_batch_before_it_is_parted():
    """With parts of one image there would be nothing to mix."""
    recipe = PhaseConfig(batch_size=10, mixup=0.8, cutmix=1.0, distill=ALONE)
    found = []
    for accumulate in (1, 10):
        model = tiny(0)
        phase = Phase(model, recipe.replace(accumulate=accumulate))
        numpy.random.seed(3)  # timm's mixup draws from it
        found.append((train_epoch(phase, batches(1), num_classes=5).loss, gradients(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def test_what_is_handed_on_is_the_average():
    model = tiny(0)
    phase = Phase(model, PhaseConfig(batch_size=10, lr=0.1, ema_decay=0.8, distill=ALONE))
    parameters = list(model.parameters())
    train_epoch(phase, batches(4), num_classes=5)
    averaged = copy.deepcopy(phase.result.state_dict())
    assert phase.result is not model
    assert not torch.equal(averaged["head.weight"], model.head.weight)
    phase.finish_()
    assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items())
    assert all(p is q for p, q in zip(parameters, model.parameters(), strict=True))


def test_without_an_average_the_model_is_the_result():
    model = tiny(0)
    assert Phase(model, PhaseConfig(distill=ALONE)).result is model


def test_a_teacher_that_is_not_asked_is_not_run():
    teacher = tiny(1)
    teacher.register_forward_hook(lambda *_: pytest.fail("the teacher ran"))
    phase = Phase(tiny(0), PhaseConfig(batch_size=10, distill=ALONE), teacher)
    train_epoch(phase, batches(1), num_classes=5)


def test_bf16_covers_student_and_teacher_and_spares_the_losses():
    images, labels = batches(1)[0]
    student, teacher, kinds = tiny(0), tiny(1), []
    for model in (student, teacher):
        model.head.register_forward_hook(lambda _, __, output: kinds.append(output.dtype))
    recipe = PhaseConfig(batch_size=10, bf16=True, distill=TAUGHT)
    phase = Phase(student, recipe, teacher)
    with phase.training():
        losses = phase.step(images, labels, 0.5)
    assert kinds == [torch.bfloat16] * 2
    assert losses.dtype == torch.float32
    # A loss that had been bfloat16 once would have zeros in its last 16 bits.
    assert (losses.view(torch.int32) & 0xFFFF).all()


@pytest.mark.slow
@torch._dynamo.config.patch(recompile_limit=GRAPHS)
def test_compiled_training_follows_every_plan(counted):
    """More plans than graphs that dynamo keeps for one piece of code, each with two epochs."""
    recipe = PhaseConfig(batch_size=10, lr=1e-3, distill=TAUGHT, ema_decay=0.9)
    models = [tiny(0, depth=1) for _ in range(2)]
    methods = [LowRank(model, LowRankConfig(keep_dense=("head",))) for model in models]
    teacher = tiny(1, depth=1)
    phases = [
        Phase(model, recipe.replace(compile=compiled), teacher)
        for model, compiled in zip(models, (False, True), strict=True)
    ]
    plan = methods[0].default_plan(methods[0].budget(BudgetConfig(reduction=0.3)))
    plans = GRAPHS + 1
    for number in range(plans):
        fewer = {"blocks.0.fc1": 14 - number}
        for method, phase in zip(methods, phases, strict=True):
            phase.after_commit(method.commit_(Plan("lowrank", {**plan.decisions, **fewer})))
        for epoch in range(2):
            eager, compiled = (
                train_epoch(phase, batches(1), num_classes=5, align_weight=0.5) for phase in phases
            )
            assert compiled.loss == pytest.approx(eager.loss, rel=1e-4), (number, epoch)
            assert compiled.loss > compiled.base_loss
        with torch.no_grad():
            models[1](batches(1)[0][0])  # what is not training stays eager
    # Student and teacher, each compiled once a plan and never run otherwise.
    assert counted.graphs == 2 * plans
    assert counted.calls == 2 * 2 * plans


def test_a_search_that_changes_nothing_compiles_nothing(counted):
    recipe = PhaseConfig(batch_size=10, compile=True, distill=ALONE)
    model = tiny(0, depth=1)
    method = LowRank(model, LowRankConfig())
    phase = Phase(model, recipe)
    plan = method.default_plan(method.budget(BudgetConfig(reduction=0.3)))
    for _ in range(3):
        method.prepare_()
        phase.after_commit(method.commit_(plan))
        train_epoch(phase, batches(2), num_classes=5)
    assert (counted.graphs, counted.calls) == (1, 6)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_trains_as_eager_does():
    found = []
    for compiled in (False, True):
        recipe = PhaseConfig(batch_size=10, lr=1e-2, compile=compiled, distill=ALONE)
        stats = train_epoch(Phase(tiny(0, depth=1), recipe), batches(3), num_classes=5)
        found.append(stats.loss)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
