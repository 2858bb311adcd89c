import pytest
import timm
import torch
import torch.nn.functional as F

from adacomcat.config import DistillConfig
from adacomcat.testing.golden import reference_rows
from adacomcat.training.distill import Distiller, WithBlockOutputs, align_weight

TRACE = "published_deit_small_trace.csv"


def tiny(seed):
    torch.manual_seed(seed)
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=4,
        num_heads=2,
        num_classes=5,
        in_chans=1,
    )


def test_compounding_weight_is_the_published_column():
    config = DistillConfig(align_schedule="compounding")
    for row in reference_rows(TRACE):
        weight = align_weight(config, int(row["epoch"]), 30)
        assert weight == pytest.approx(float(row["align_weight"]), rel=1e-9)


def test_cosine_weight_falls_from_the_weight_to_the_floor():
    config = DistillConfig(align_schedule="cosine", align_weight=0.5, align_floor=0.01)
    weights = [align_weight(config, epoch, 30) for epoch in range(30)]
    assert weights[0] == 0.5 and weights == sorted(weights, reverse=True)
    assert weights[20] == pytest.approx(0.25)
    assert align_weight(config, 30, 30) == 0.01
    assert align_weight(DistillConfig(align_blocks=()), 3, 30) == 0.0


@pytest.mark.parametrize("kind", ["none", "soft", "hard"])
def test_losses_are_their_formulas_with_one_teacher_forward(kind):
    config = DistillConfig(kind=kind, weight=0.3, temperature=2.0, align_blocks=(0, -1))
    student, teacher = tiny(0), tiny(1).eval()
    forwards = []
    teacher.register_forward_hook(lambda *_: forwards.append(1))
    images, labels = torch.randn(6, 1, 8, 8), torch.randint(5, (6,))
    distiller, student_outputs = (
        Distiller(teacher, config),
        WithBlockOutputs(student, config.align_blocks),
    )
    with distiller.hooked(), student_outputs.hooked():
        learnt, taught = student_outputs(images), distiller.teach(images)
    logits = learnt[0]
    label_loss = F.cross_entropy(logits, labels)
    loss, base = distiller(learnt, taught, label_loss, 0.7)
    assert len(forwards) == 1
    assert torch.equal(logits, student(images))

    taught = teacher(images)
    soft = (
        F.kl_div(
            F.log_softmax(logits / 2, 1),
            F.log_softmax(taught / 2, 1),
            log_target=True,
            reduction="sum",
        )
        * 4
        / 6
    )
    extra = {"none": label_loss, "soft": soft, "hard": F.cross_entropy(logits, taught.argmax(1))}
    torch.testing.assert_close(base, 0.7 * label_loss + 0.3 * extra[kind])
    assert loss > base
    whole = sum(
        F.mse_loss(a, b)
        for a, b in zip(block_outputs(student, images), block_outputs(teacher, images), strict=True)
    )
    torch.testing.assert_close(loss, base + 0.7 * whole)


def block_outputs(model, images):
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(images)))
    outputs = []
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    return [outputs[0], outputs[3]]


def test_no_gradient_reaches_the_teacher_and_no_hook_stays():
    student, teacher = tiny(0), tiny(1).eval()
    images = torch.randn(2, 1, 8, 8)
    distiller, student_outputs = (
        Distiller(teacher, DistillConfig()),
        WithBlockOutputs(student, (0, 1)),
    )
    with distiller.hooked(), student_outputs.hooked():
        learnt, taught = student_outputs(images), distiller.teach(images)
    distiller((learnt[0], learnt[1] * 2), taught, learnt[0].sum(), 1.0)[0].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    for model in (student, teacher):
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["none", "soft", "hard"])
def test_losses_are_computed_in_float32(kind):
    """A bfloat16 loss has two to three digits; the losses of bfloat16 outputs have seven."""
    torch.manual_seed(0)

    def outputs(dtype):
        generator = torch.Generator().manual_seed(3)
        drawn = [torch.randn(6, 5, 8, generator=generator).bfloat16().to(dtype) for _ in range(4)]
        return (drawn[0][:, 0], [drawn[1]]), (drawn[2][:, 0], [drawn[3]])

    distiller = Distiller(tiny(1), DistillConfig(kind=kind, align_blocks=(0,)))
    label_loss = torch.tensor(1.25)
    half = distiller(*outputs(torch.bfloat16), label_loss, 0.5)
    full = distiller(*outputs(torch.float32), label_loss, 0.5)
    assert half == full and half[0].dtype == torch.float32


def test_the_teacher_is_in_eval_mode_while_it_teaches():
    teacher = tiny(1).train()
    with Distiller(teacher, DistillConfig()).hooked():
        assert not teacher.training
    assert teacher.training


def test_blocks_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match="distill.align_blocks: got 4, allowed: -4 to 3"):
        WithBlockOutputs(tiny(0), (0, 4))


def test_a_block_named_twice_counts_once():
    assert WithBlockOutputs(tiny(0), (0, 1, -4, -1)).indices == [0, 1, 3]


def test_outputs_are_those_of_this_forward():
    student_outputs = WithBlockOutputs(tiny(0).eval(), (1, 2))
    images = torch.randn(3, 1, 8, 8)
    with student_outputs.hooked():
        first, second = student_outputs(images), student_outputs(images[:1])
    assert [tuple(output.shape[:1]) for output in first[1]] == [(3,)] * 2
    assert [tuple(output.shape[:1]) for output in second[1]] == [(1,)] * 2
    assert student_outputs(images)[1] == []
