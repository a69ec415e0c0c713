"""Muon: its updates are orthogonal matrices, it descends, and it goes on after a break."""

from __future__ import annotations

import io

import pytest
import torch

from zoetrope.model.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(64, 24), (24, 64), (4, 48, 16), (3, 16, 48)])
def test_singular_values_come_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    result = orthogonalise(matrices)
    assert (result.shape, result.dtype) == (matrices.shape, matrices.dtype)
    values = torch.linalg.svdvals(result)
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3
    assert 0.7 < float(values.mean()) < 1.15


@pytest.mark.parametrize("shape", [(48, 16), (16, 48)])
def test_the_singular_vectors_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalise(matrix) @ v.T
    assert float((inner - inner.diag().diag()).abs().max()) < 0.1
    assert float(inner.diag().min()) > 0.5


def test_each_matrix_of_a_stack_counts_alone() -> None:
    stack = (
        torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(3))
        * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    )
    alone = torch.stack([orthogonalise(matrix) for matrix in stack])
    assert torch.allclose(orthogonalise(stack), alone, atol=0.02)


def parameter(*shape: int) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("shape", [(24, 16), (4, 16, 24)])
def test_a_step_lowers_a_quadratic(shape: tuple[int, ...]) -> None:
    weight = parameter(*shape)
    optimizer = Muon([weight], lr=0.1)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_the_update_has_the_size_of_adams_and_weights_decay() -> None:
    weight = parameter(64, 32)
    before = weight.detach().clone()
    weight.grad = torch.randn(64, 32, generator=torch.Generator().manual_seed(5))
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    change = weight.detach() - before
    assert 0.1 < float(change.square().mean().sqrt()) / 0.01 < 0.3, "the root mean square of AdamW's is 0.2 to 0.4"
    still = parameter(64, 32)
    still.grad = torch.zeros(64, 32)
    Muon([still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(still.detach(), before * 0.95)


def test_a_parameter_without_a_gradient_stays() -> None:
    weight = parameter(8, 8)
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.1)
    assert optimizer.step(lambda: 3.0) == 3.0
    assert torch.equal(weight.detach(), before)


def test_a_resumed_optimiser_goes_on_as_if_there_had_been_no_break() -> None:
    gradients = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(6))

    def advance(optimizer: Muon, weight: torch.nn.Parameter, rows: slice) -> None:
        for gradient in gradients[rows]:
            weight.grad = gradient.clone()
            optimizer.step()

    whole, parts = parameter(16, 24), parameter(16, 24)
    advance(Muon([whole], lr=0.02), whole, slice(0, 4))
    first = Muon([parts], lr=0.02)
    advance(first, parts, slice(0, 2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again = Muon([parts], lr=0.5)  # the saved rate counts
    again.load_state_dict(torch.load(file))
    advance(again, parts, slice(2, 4))
    assert torch.equal(whole, parts)
