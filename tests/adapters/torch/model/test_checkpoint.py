"""Loading: which checkpoints are refused, and what is kept."""

import copy
import io

import pytest
import torch
from qemu_swalp_torch import SGD, quantize_optimizer

from qemu_swalp.training import Recipe, swalp

SWALP = swalp(8).resolve(out=0)


def made(recipe, kind="hooks", seed=0, dtype=torch.float32, **options):
    p = torch.nn.Parameter(torch.ones(2, 3, dtype=dtype))
    if kind == "native":
        opt = SGD([("w", p)], 0.1, 0.9, recipe=recipe, seed=seed, **options)
    else:
        opt = quantize_optimizer(
            torch.optim.SGD([("w", p)], 0.1, momentum=0.9), recipe, seed=seed, **options
        )
    p.grad = torch.ones_like(p)
    opt.step()
    return opt


@pytest.mark.parametrize("kind", ["hooks", "native"])
class TestRefusal:
    def test_another_recipe_is_refused_with_a_listing_and_nothing_changes(self, kind):
        saved = made(
            Recipe(weight="bfp8/stochastic", momentum="bf16/stochastic"), kind
        ).state_dict()
        opt = made(Recipe(weight="bfp<8,axis=0>/stochastic", gradient="e5m2/stochastic"), kind)
        before = copy.deepcopy(opt.state_dict())
        saved["param_groups"][0]["lr"] = 7.0
        with pytest.raises(ValueError, match="trained with another recipe") as error:
            opt.load_state_dict(saved)
        for part in (
            "weight is bfp8/stochastic_a in the checkpoint, bfp<8,axis=0>/stochastic_a here",
            "momentum is bf16/stochastic_a in the checkpoint, absent here",
            "gradient is absent in the checkpoint",
            "allow_recipe_change=True",
        ):
            assert part in str(error.value)
        assert str(before) == str(opt.state_dict())

    def test_overrides_and_their_order_count(self, kind):
        a, b = Recipe(weight="bf16/stochastic"), None
        opt = made(Recipe(overrides={"*w": a, "w*": b}), kind)
        with pytest.raises(
            ValueError,
            match=r"overrides come in the order w\*, \*w in the checkpoint, \*w, w\* here",
        ):
            opt.load_state_dict(made(Recipe(overrides={"w*": b, "*w": a}), kind).state_dict())
        with pytest.raises(
            ValueError, match=r"overrides\.\*w\.weight is e5m2/stochastic_a in the checkpoint, bf16"
        ):
            opt.load_state_dict(
                made(
                    Recipe(overrides={"*w": Recipe(weight="e5m2/stochastic"), "w*": b}), kind
                ).state_dict()
            )

    def test_a_plain_checkpoint_is_refused(self, kind):
        p = torch.nn.Parameter(torch.ones(2, 3))
        saved = torch.optim.SGD([("w", p)], 0.1).state_dict()
        with pytest.raises(
            ValueError, match="weight is absent in the checkpoint, bf16/stochastic_a here"
        ):
            made(Recipe(weight="bf16/stochastic"), kind).load_state_dict(saved)

    def test_allowing_it_keeps_the_scripts_recipe_and_the_checkpoints_seed_and_step(
        self, kind, on_grid
    ):
        opt = made(Recipe(weight="fixed<8,3>/stochastic"), kind, seed=1, allow_recipe_change=True)
        saved = made(Recipe(weight="bf16/stochastic"), kind, seed=2)
        saved.param_groups[0]["qemu_step"] = 9
        opt.load_state_dict(saved.state_dict())
        assert (opt.param_groups[0]["qemu_seed"], opt.param_groups[0]["qemu_step"]) == (2, 9)
        p = opt.param_groups[0]["params"][0]
        p.grad = torch.full_like(p, 0.3)
        opt.step()
        assert on_grid(p, "fixed<8,3>")

    @pytest.mark.parametrize(
        ("key", "value"),
        [("qemu_step", None), ("qemu_step", 1.5), ("qemu_seed", "x"), ("qemu_recipe", None)],
    )
    def test_a_damaged_checkpoint_is_refused(self, kind, key, value):
        opt = made(SWALP, kind)
        saved = opt.state_dict()
        saved = {**saved, "param_groups": [dict(saved["param_groups"][0])]}
        saved["param_groups"][0][key] = value
        if value is None:
            del saved["param_groups"][0][key]
        with pytest.raises(
            ValueError, match="is damaged: every param_group must hold qemu_recipe, a string"
        ):
            opt.load_state_dict(saved)


def test_equal_recipes_spelled_differently_are_equal():
    made(Recipe(weight="bfp<8>/stochastic")).load_state_dict(
        made(Recipe(weight="bfp8/stochastic_a<32>")).state_dict()
    )


@pytest.mark.parametrize(
    ("saved", "loaded", "kept"),
    [(torch.bfloat16, torch.bfloat16, True), (torch.float32, torch.bfloat16, False)],
)
def test_state_keeps_its_dtype_where_the_parameters_have_theirs(saved, loaded, kept):
    opt, other = (
        made(Recipe(weight="bf16/stochastic"), dtype=saved),
        made(Recipe(weight="bf16/stochastic"), dtype=loaded),
    )
    p = opt.param_groups[0]["params"][0]
    opt.state[p]["momentum_buffer"] = torch.full((2, 3), 1 / 3)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    value = other.state[other.param_groups[0]["params"][0]]["momentum_buffer"]
    assert value.dtype == (torch.float32 if kept else torch.bfloat16)
    assert not kept or torch.equal(value, torch.full((2, 3), 1 / 3))


def test_loading_before_attaching_goes_on_from_the_checkpoint(same):
    run = made(SWALP, seed=4)
    p = torch.nn.Parameter(run.param_groups[0]["params"][0].detach().clone())
    opt = torch.optim.SGD([("w", p)], 0.1, momentum=0.9)
    opt.load_state_dict(copy.deepcopy(run.state_dict()))  # loading shares tensors
    with pytest.raises(ValueError, match="trained with another recipe"):
        quantize_optimizer(opt, swalp(6).resolve(out=0))
    quantize_optimizer(opt, SWALP)
    for o in (run, opt):
        q = o.param_groups[0]["params"][0]
        q.grad = torch.full_like(q, 0.3)
        o.step()
    same(run.param_groups[0]["params"][0], p)
    assert opt.param_groups[0]["qemu_step"] == 2


def test_distributed_state_dicts(same):
    """torch.distributed.checkpoint's way of saving and loading, without processes; it steps a fresh
    optimizer once.
    """
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    def build():
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        recipe = Recipe(weight="bfp8/stochastic", accumulator="bf16/stochastic")
        return model, quantize_optimizer(torch.optim.Adam(model.parameters(), 0.1), recipe)

    for options in (StateDictOptions(), StateDictOptions(flatten_optimizer_state_dict=True)):
        model, opt = build()
        for _ in range(3):
            opt.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            opt.step()
        saved = copy.deepcopy(get_optimizer_state_dict(model, opt, options=options))
        other, again = build()
        other.load_state_dict(model.state_dict())
        set_optimizer_state_dict(other, again, saved, options=options)
        for m, o in ((model, opt), (other, again)):
            o.zero_grad()
            m(torch.ones(2, 4)).square().sum().backward()
            o.step()
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            same(a, b)
        assert again.param_groups[0]["qemu_step"] == 4
