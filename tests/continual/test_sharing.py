"""Weight sharing: clusters of one-dimensional values, and codes that give them back exactly."""

import pytest
import torch

from perdure.continual.sharing import WeightSharing, from_bits, kmeans, to_bits


def test_clusters_that_are_there_are_found():
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([-2.0, -0.5, 0.1, 3.0])
    codes = torch.randint(4, (400,), generator=g)
    values = centres[codes] + 0.01 * torch.randn(400, generator=g)
    found, assigned = kmeans(values, 4)
    assert torch.allclose(found, centres, atol=0.01)
    assert torch.equal(assigned.long(), codes)


@pytest.mark.parametrize(("values", "wanted"), [([1.0], [1.0]), ([2.0, 2.0, 2.0], [2.0]), ([0.0, 1.0], [0.0, 1.0])])
def test_fewer_values_than_clusters(values, wanted):
    found, codes = kmeans(torch.tensor(values), 16)
    assert found.tolist() == wanted
    assert found[codes.long()].tolist() == values


@pytest.mark.parametrize("clusters", [2, 3, 16, 200, 256])
def test_codes_give_the_weights_back(clusters):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(clusters))
    sharing = WeightSharing()
    sharing.open({"a.weight": values}, clusters)
    with torch.no_grad():  # fine-tuning may leave the centroids in any order, and equal ones
        sharing.trained()["a.weight"].copy_(sharing.trained()["a.weight"].roll(1))
        sharing.trained()["a.weight"][0] = sharing.trained()["a.weight"][1]
    shared = sharing.values("a.weight").detach()
    sharing.close(3)
    packed = sharing.encode(3, "a.weight", shared)
    assert packed.numel() == -(-1000 * max(1, (clusters - 1).bit_length()) // 8)
    other = WeightSharing()
    other.rebuild(sharing.architecture())
    other.load_state_dict(sharing.state_dict())
    assert torch.equal(other.decode(3, "a.weight", packed, 1000), shared)


def test_open_centroids_come_back_and_get_gradients():
    sharing = WeightSharing()
    sharing.open({"a.weight": torch.tensor([0.0, 0.1, 5.0])}, 2)
    other = WeightSharing()
    other.rebuild(sharing.architecture())
    other.load_state_dict(sharing.state_dict())
    values = other.values("a.weight")
    assert torch.allclose(values, torch.tensor([0.05, 0.05, 5.0]))
    values.sum().backward()
    assert other.trained()["a.weight"].grad.tolist() == [2.0, 1.0]


def test_bits():
    codes = torch.tensor([0, 5, 7, 2])
    assert torch.equal(from_bits(to_bits(codes, 3), 3), codes)
