import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adacomcat.config import BudgetConfig
from adacomcat.methods.lowrank.config import LowRankConfig
from adacomcat.methods.lowrank.method import LowRank
from adacomcat.plan import Plan
from adacomcat.testing.models import tiny_vit
from adacomcat.training.ema import Average


def shaken(model, seed):
    """Move every weight, as a step of training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def test_it_is_torchs_moving_average():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = Average(model, 0.9)
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(model)  # torch begins at the first weights that it is given
    for step in range(5):
        shaken(model, step)
        model(torch.randn(8, 3))
        average.update(model)
        reference.update_parameters(model)
    wanted = reference.module.state_dict()
    for name, value in average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, wanted[name])
    assert not torch.equal(average.model[0].weight, model[0].weight)


def test_a_change_of_ranks_restarts_what_it_replaced_and_nothing_else():
    model = tiny_vit()
    method = LowRank(model, LowRankConfig(keep_dense=("head",)))
    average = Average(model, 0.9)
    first = method.default_plan(method.budget(BudgetConfig(reduction=0.3)))
    method.commit_(first)
    average.after_commit(model)
    for step in range(3):
        shaken(model, step)
        average.update(model)
    known = copy.deepcopy(average.model.state_dict())
    # One site of one block: its module is replaced, all others stay.
    site = "blocks.1.fc1"
    moves = method.commit_(
        Plan("lowrank", {**first.decisions, site: first.decisions[site] - 1})
    ).moves
    assert len(moves) == 1
    average.after_commit(model)
    committed, followed = model.state_dict(), average.model.state_dict()
    assert followed.keys() == committed.keys()
    replaced = {name for name in committed if name.startswith("blocks.1.mlp.fc1.")}
    assert replaced
    for name, value in followed.items():
        assert torch.equal(value, committed[name] if name in replaced else known[name]), name
        assert value.data_ptr() != committed[name].data_ptr()
    name = "blocks.1.mlp.fc1.first.weight"
    before = followed[name].clone()
    shaken(model, 9)
    average.update(model)
    expected = 0.9 * before + 0.1 * model.get_parameter(name)
    torch.testing.assert_close(average.model.get_parameter(name), expected)


def test_the_averaged_model_is_its_own():
    model = tiny_vit()
    average = Average(model, 0.5)
    before = copy.deepcopy(average.model.state_dict())
    shaken(model, 0)
    assert not average.model.training
    for name, value in average.model.state_dict().items():
        assert torch.equal(value, before[name])
