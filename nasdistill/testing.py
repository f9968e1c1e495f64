"""The contract of terms, teachers, weights by example and schedules: checks to run on one's own.

Plain functions that raise `AssertionError` with what was broken. They need no test runner, take
small models, and leave what they are given as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nasdistill.common.types import Input
from nasdistill.data import Batch
from nasdistill.losses import Schedule, Term
from nasdistill.losses.example_weights import ByExample
from nasdistill.models import hooks
from nasdistill.models.hooks import Outputs
from nasdistill.teachers.targets import TargetRequest
from nasdistill.training import Run, train

EXAMPLES = 6
NEAR_ZERO = 1e-4
ROUNDING = 1e-5


def check_term(
    make: Callable[[], Term],
    student: nn.Module,
    teacher: nn.Module,
    input: Input,
    *,
    zero_at_teacher: bool = False,
) -> None:
    """Checks what an objective relies on in a term.

    The loss is float32, `[B]` or a scalar where `coupled`, finite and not negative, in fp32, under
    bf16 autocast and on float16 answers; the same inputs give the same value; where not `coupled`,
    an example's loss is its own. The gradient reaches the student and all that learns beside it,
    never the teacher, which stays bit for bit what it was. No hook is left behind.

    Args:
        make: Gives the term, not yet bound.
        student: Takes uint8 `[B, C, H, W]`, gives logits; on the CPU, as the teacher.
        teacher: The same, with as many classes.
        input: Shape of the images of both.
        zero_at_teacher: Whether the loss must vanish for a student that is the teacher.

    Raises:
        AssertionError: If the term breaks any of this.
    """
    learner, frozen_teacher = copy.deepcopy(student).train(), copy.deepcopy(teacher).eval()
    frozen_teacher.requires_grad_()  # so that a gradient that reaches it is seen
    before, hooks = _state(frozen_teacher), _hooks([learner, frozen_teacher])
    term, auxiliary = _bound(make, learner, frozen_teacher, input)
    images = torch.randint(0, 256, (EXAMPLES, input.channels, *input.size), dtype=torch.uint8)
    ids = torch.arange(EXAMPLES)
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outputs, targets = _ask_both(term, learner, frozen_teacher, images)
            batch = Batch(images, ids % outputs.logits.shape[1], ids, ids, 0)
            if half and targets is not None:
                targets = replace(targets, logits=targets.logits.half())
            for progress in (0.0, 1.0, 0.5):
                loss = term(outputs, targets, batch, progress, auxiliary)
                _check_value(term, loss)
        _check_gradients(loss, learner, frozen_teacher, auxiliary, must_move=not half)
    _check_repeats(term, learner, frozen_teacher, batch, auxiliary)
    assert _same(before, _state(frozen_teacher)), "the teacher's weights or buffers changed"
    assert not any(part.training for part in frozen_teacher.modules()), "the teacher left eval mode"
    if zero_at_teacher:
        _check_zero(make, frozen_teacher, batch, input)
    assert _hooks([learner, frozen_teacher]) == hooks, "a hook was left behind"


def check_answers(
    make: Callable[[], Run],
    name: str,
    folder: Path,
    *,
    frozen: Sequence[nn.Module] = (),
    steps: int = 6,
) -> None:
    """Checks what a run relies on in a teacher.

    It answers float `[B, C]` without gradients, the same when asked the same again; modules stay in
    the mode they were in, and frozen ones bit for bit what they were; a run that asks it goes on
    bit for bit after it was saved and restored, or branched.

    Args:
        make: Gives a fresh run, each time the same, whose objective asks the teacher.
        name: What the run calls that teacher.
        folder: Where a run may be saved.
        frozen: Modules that it asks.
        steps: Training steps of each run; saved after half of them.

    Raises:
        AssertionError: If the teacher breaks any of this.
    """
    _check_answer(_prepared(make(), name, steps), name)
    whole = _prepared(make(), name, steps)
    before, hooks = [_state(module) for module in frozen], _hooks([*frozen, whole.students])
    _train(whole, steps)
    for module, state in zip(frozen, before, strict=True):
        assert _same(state, _state(module)), f"training changed the teacher {name!r}"
        assert all(p.grad is None for p in module.parameters()), f"gradients reached {name!r}"
    assert _hooks([*frozen, whole.students]) == hooks, "a hook was left behind"
    copies = [module for each in whole.teacher_copies for module in each.children()]
    for part in [part for module in (*frozen, *copies) for part in module.modules()]:
        assert not part.training, f"the teacher {name!r} left eval mode"
    first = _prepared(make(), name, steps)
    _train(first, steps // 2)
    first.save(folder / "run.pt")
    second = _prepared(make(), name, steps)
    second.restore(folder / "run.pt")
    _train(second, steps)
    assert _same(_everything(whole), _everything(second)), "a restored run went on differently"
    trunk = _everything(first)
    branch = first.branch(first.lr_schedule)
    _train(branch, steps)
    assert _same(_everything(whole), _everything(branch)), "a branch went on differently"
    assert _same(trunk, _everything(first)), "a branch changed its trunk"


def check_follow(name: str) -> None:
    """Checks a weight by example: float32 `[B]` in [0, 1], of answers of any precision and size.

    Args:
        name: A key of `objective.examples.FOLLOWS`.

    Raises:
        AssertionError: If the weight breaks this.
    """
    generator = torch.Generator().manual_seed(0)
    labels_B = torch.arange(EXAMPLES) % 4
    for size in (0.0, 1.0, 300.0):
        drawn_BC = size * torch.randn(EXAMPLES, 4, generator=generator)
        for kind in (torch.float32, torch.bfloat16, torch.float16):
            logits_BC = drawn_BC.to(kind)
            weight_B, _ = ByExample(name, 0.5).weights(logits_BC, labels_B)
            where = f"{name} on {kind} logits of size {size:g}"
            assert weight_B.dtype == torch.float32, f"{where}: {weight_B.dtype}"
            assert weight_B.shape == (EXAMPLES,), f"{where}: shape {tuple(weight_B.shape)}"
            inside_B = (weight_B >= -ROUNDING) & (weight_B <= 1.0 + ROUNDING)
            assert inside_B.all(), f"{where}: outside [0, 1]"
            part_B, _ = ByExample(name, 0.5).weights(logits_BC[:2], labels_B[:2])
            assert torch.allclose(part_B, weight_B[:2]), f"{where}: depends on other examples"


def check_schedule(schedule: Schedule, lowest: float, highest: float) -> None:
    """Checks that a schedule gives finite numbers within bounds, the same each time.

    Args:
        schedule: What is checked, from progress in [0, 1] to a number.
        lowest: The smallest value that it may take.
        highest: The largest.

    Raises:
        AssertionError: If it does not.
    """
    for part in range(101):
        value = schedule(part / 100)
        assert isinstance(value, float) and math.isfinite(value), f"{value!r} at {part / 100}"
        assert lowest - 1e-9 <= value <= highest + 1e-9, f"{value:g} at {part / 100}"
        assert schedule(part / 100) == value, f"another value the second time, at {part / 100}"


def _bound(
    make: Callable[[], Term], student: nn.Module, teacher: nn.Module, input: Input
) -> tuple[Term, nn.Module | None]:
    term = make().bind(
        hooks.summarise(student, "student", input), hooks.summarise(teacher, "teacher", input)
    )
    torch.manual_seed(0)
    return term, term.auxiliary()


def _ask_both(
    term: Term, student: nn.Module, teacher: nn.Module, images: Tensor
) -> tuple[Outputs, Outputs | None]:
    """The outputs of both, asked as a run asks them."""
    torch.manual_seed(0)  # for dropout
    outputs = hooks.forward(student, images, term.student_layers)
    if not term.asks_teacher:
        return outputs, None
    with torch.no_grad():
        return outputs, hooks.forward(teacher, images, term.teacher_layers)


def _check_value(term: Term, loss: Tensor) -> None:
    shape = () if term.coupled else (EXAMPLES,)
    assert tuple(loss.shape) == shape, f"a loss of shape {tuple(loss.shape)} instead of {shape}"
    assert loss.dtype == torch.float32, f"a loss in {loss.dtype}"
    assert loss.isfinite().all(), f"a loss of {loss.tolist()}"
    assert (loss >= -ROUNDING).all(), f"a negative loss: {loss.tolist()}"


def _check_gradients(
    loss: Tensor,
    student: nn.Module,
    teacher: nn.Module,
    auxiliary: nn.Module | None,
    must_move: bool,
) -> None:
    learning = [("student", student)] + ([("auxiliary", auxiliary)] if auxiliary else [])
    nn.ModuleDict(dict(learning)).zero_grad()
    loss.mean().backward()  # type: ignore[no-untyped-call]
    for name, module in learning:
        grads = {path: p.grad for path, p in module.named_parameters()}
        for path, grad in grads.items():
            assert grad is None or grad.isfinite().all(), f"{name}: gradient of {path} not finite"
        moved = [path for path, grad in grads.items() if grad is not None and grad.any()]
        assert moved or not must_move, f"no gradient reaches the {name}"
        left = sorted(set(grads) - set(moved)) if name == "auxiliary" and must_move else []
        assert not left, f"no gradient reaches {', '.join(left)} of the auxiliary"
    paths = [path for path, p in teacher.named_parameters() if p.grad is not None]
    assert not paths, f"the gradient reaches the teacher: {', '.join(paths)}"


def _check_repeats(
    term: Term, student: nn.Module, teacher: nn.Module, batch: Batch, auxiliary: nn.Module | None
) -> None:
    """The same again gives the same; some of the examples give frozen_teacher."""
    with torch.no_grad():
        outputs, targets = _ask_both(term, student, teacher, batch.images)
        losses = [term(outputs, targets, batch, 0.5, auxiliary) for _ in range(2)]
        assert torch.equal(*losses), "the same inputs gave another value"
        if not term.coupled:
            rows = slice(1, EXAMPLES - 2)
            ids = batch.ids[rows]
            part = Batch(batch.images[rows], batch.labels[rows], ids, ids, batch.view)
            few = None if targets is None else _rows(targets, rows)
            own = term(_rows(outputs, rows), few, part, 0.5, auxiliary)
            assert torch.allclose(own, losses[0][rows], rtol=1e-3, atol=1e-5), (
                "the loss of an example depends on the others; the term must say `coupled`"
            )


def _rows(outputs: Outputs, rows: slice) -> Outputs:
    features = {name: read[rows] for name, read in outputs.features.items()}
    return replace(outputs, logits=outputs.logits[rows], features=features)


def _check_zero(make: Callable[[], Term], teacher: nn.Module, batch: Batch, input: Input) -> None:
    term, auxiliary = _bound(make, teacher, teacher, input)
    with torch.no_grad():
        outputs, targets = _ask_both(term, teacher, teacher, batch.images)
        loss = term(outputs, targets, batch, 0.5, auxiliary)
    assert (loss.abs() < NEAR_ZERO).all(), f"a loss of {loss.tolist()} where student is teacher"


def _prepared(run: Run, name: str, steps: int) -> Run:
    run.targets[name].prepare(run.stream.plan(0, steps))
    return run


def _check_answer(run: Run, name: str) -> None:
    """One request, asked twice."""
    plan = list(run.stream.plan(0, 1))
    (batch,) = run.stream.dataset.train.batches(plan, run.size, run.sizes)
    run.students.train()
    outputs = [hooks.forward(student, batch.images, ()) for student in run.students]
    before, modes = _everything(run), [part.training for part in run.students.modules()]
    request = TargetRequest(batch, (), outputs, 0)
    copy_of_student = dict(run.teacher_copies[0].named_children()).get(name)
    answers = [run.targets[name](request, copy_of_student) for _ in range(2)]
    logits = answers[0].logits
    shape = tuple(outputs[0].logits.shape)
    assert tuple(logits.shape) == shape, f"logits of shape {tuple(logits.shape)}, not {shape}"
    assert logits.is_floating_point(), f"logits in {logits.dtype}"
    assert not logits.requires_grad, "an answer with gradients"
    known = answers[0].known
    fits = known is None or (known.dtype == torch.bool and known.shape == shape[:1])
    assert fits, "`known` must be bool `[B]`"
    assert logits.isfinite().all(), "answers that are not finite"
    assert torch.equal(logits, answers[1].logits), "the same request, another answer"
    assert _same(before, _everything(run)), "asking changed the run"
    assert [part.training for part in run.students.modules()] == modes, "asking changed a mode"


def _train(run: Run, steps: int) -> None:
    for _ in train(run, steps * run.stream.batch_size):
        pass


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, copied."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def _everything(run: Run) -> dict[str, Tensor]:
    return _state(nn.ModuleList([run.students, run.auxiliaries, run.teacher_copies]))


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    keys_agree = first.keys() == second.keys()
    return keys_agree and all(torch.equal(first[key], second[key]) for key in first)


def _hooks(modules: Sequence[nn.Module]) -> int:
    """The number of forward hooks."""
    parts = [part for module in modules for part in module.modules()]
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)
