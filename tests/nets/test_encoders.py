"""Encoders: shapes, scaling of images, leading axes."""

import pytest
import torch

from perdure.core.errors import UsageError
from perdure.core.spec import Box
from perdure.nets.encoders import ImageEncoder, encoder


@pytest.mark.parametrize("shape", [(1, 36, 36), (3, 84, 84), (2, 40, 52)])
def test_images_of_any_size_from_36_pixels(shape):
    net = encoder(Box(shape, dtype="uint8"), 7)
    image = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    out = net(image)
    assert out.shape == (2, 3, 7)
    torch.testing.assert_close(out[1, 2], net(image[1, 2].unsqueeze(0))[0], rtol=1e-4, atol=1e-5)


def test_pixels_are_scaled_to_one():
    net = encoder(Box((1, 36, 36), dtype="uint8"), 4)
    image = torch.randint(0, 256, (3, 1, 36, 36), dtype=torch.uint8)
    torch.testing.assert_close(net(image), net.project(net.convolutions(image / 255).flatten(1)))


def test_vectors_go_through_one_linear_map():
    net = encoder(Box((5,)), 3)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(net(x), x @ net.weight.T + net.bias)


@pytest.mark.parametrize("shape", [(3, 32, 32), (84, 84, 3), (3, 84, 35), (84, 84)])
def test_images_that_three_convolutions_cannot_read_are_refused(shape):
    with pytest.raises(UsageError, match=r"images are \[channels, height, width\] with 36 x 36 pixels or more"):
        ImageEncoder(shape, 8)
    ImageEncoder((1, 36, 36), 8)
