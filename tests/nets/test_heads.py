"""HeadBank and Normalizer: each row through what belongs to its own task."""

import torch

from perdure.nets.heads import HeadBank, Normalizer


def bank():
    torch.manual_seed(0)
    made = HeadBank(6)
    for task, name in ((0, "task-0"), (3, "task-3"), (11, "task-11")):
        made.add(task, name, 2)
    return made


def test_rows_go_through_their_own_head_in_any_order():
    made, features = bank(), torch.randn(5, 4, 6)
    task = torch.tensor([11, 0, 3, 3, 0])
    out = made(features, task, (0, 3, 11))
    for row, t in enumerate(task.tolist()):
        torch.testing.assert_close(out[row], made.heads[f"task-{t}"](features[row]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(made(features[1:3], task[1:3], (3, 0)), out[1:3], rtol=1e-5, atol=1e-6)


def test_heads_of_one_number_are_asked_all_at_once():
    torch.manual_seed(0)
    made, features, task = HeadBank(6), torch.randn(5, 4, 6), torch.tensor([11, 0, 3, 3, 0])
    for known in (0, 3, 11):
        made.add(known, f"task-{known}", 1)
    out = made(features, task, (11, 0, 3))
    out.square().sum().backward()
    slopes = {known: made.heads[f"task-{known}"].weight.grad.clone() for known in (0, 3, 11)}
    made.zero_grad()
    alone = torch.stack([made.heads[f"task-{known}"](row) for known, row in zip(task.tolist(), features, strict=True)])
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-6)
    alone.square().sum().backward()
    for known, slope in slopes.items():
        torch.testing.assert_close(slope, made.heads[f"task-{known}"].weight.grad, rtol=1e-5, atol=1e-6)


def test_one_head_is_the_plain_layer():
    made, features = bank(), torch.randn(5, 4, 6)
    assert torch.equal(made(features, torch.full((5,), 3), (3,)), made.heads["task-3"](features))


def test_gradients_reach_only_the_heads_of_the_batch():
    made = bank()
    made(torch.randn(2, 1, 6), torch.tensor([0, 3]), (0, 3)).sum().backward()
    assert made.heads["task-0"].weight.grad.any()
    assert made.heads["task-3"].weight.grad.any()
    assert made.heads["task-11"].weight.grad is None


def test_only_a_head_per_task_is_owned():
    made = bank()
    made.add(4, "all-box-2", 2)
    assert made.own(3) == "task-3"
    assert made.own(4) is None, "a later task may share it"


def test_normaliser_uses_the_statistics_of_each_row():
    normalizer = Normalizer()
    for task in (0, 2):
        normalizer.add(task, torch.full((3,), float(task)), torch.full((3,), task + 1.0))
    obs = torch.randn(4, 5, 3)
    task = torch.tensor([2, 0, 0, 2])
    out = normalizer(obs, task, (0, 2))
    for row, t in enumerate(task.tolist()):
        torch.testing.assert_close(out[row], (obs[row] - t) / (t + 1))
        torch.testing.assert_close(normalizer(obs[row : row + 1], task[row : row + 1], (t,))[0], out[row])


def test_a_constant_channel_stays_finite_and_values_far_outside_are_clamped():
    normalizer = Normalizer()
    normalizer.add(0, torch.tensor([5.0, 0.0]), torch.tensor([1.0, 1.0]))
    out = normalizer(
        torch.tensor([[[5.0, 0.0]], [[5.5, 1e9]], [[5.0, -1e9]]]), torch.zeros(3, dtype=torch.int64), (0,)
    )
    assert out.tolist() == [[[0.0, 0.0]], [[0.5, 10.0]], [[0.0, -10.0]]]


def test_images_pass_unchanged():
    image = torch.randint(0, 256, (2, 1, 1, 4, 4), dtype=torch.uint8)
    assert Normalizer()(image, torch.zeros(2, dtype=torch.int64), (0,)) is image
