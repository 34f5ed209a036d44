"""SSIM against scikit-image and closed forms; cosine."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from salcore.similarity import cosine, gaussian_window, ssim, ssim_map, window_side


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
    return a, (a + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(-1, 1)


@pytest.mark.parametrize("sigma", [1.5])
@pytest.mark.parametrize("value_range", [2.0, 1.0])
def test_equals_scikit_image_where_its_window_fits(sigma, value_range):
    a, b = images(3, 2, 24, 31)
    ours = ssim_map(a, b, value_range=value_range, sigma=sigma)
    for n in range(3):
        for c in range(2):
            _, theirs = structural_similarity(
                a[n, c].numpy(),
                b[n, c].numpy(),
                gaussian_weights=True,
                sigma=sigma,
                use_sample_covariance=False,
                data_range=value_range,
                full=True,
            )
            np.testing.assert_allclose(ours[n, c], theirs[5:-5, 5:-5], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ssim(a, b, value_range=value_range), ours.mean((1, 2, 3)))


def test_equals_plain_loop_over_windows_of_a_small_image():
    a, b = images(1, 1, 8, 9)
    weights = np.outer(w := np.array(gaussian_window(7, 1.5)), w)
    c1, c2, rows = 0.02**2, 0.06**2, []
    for i in range(2):
        for j in range(3):
            x, y = a[0, 0, i : i + 7, j : j + 7].numpy(), b[0, 0, i : i + 7, j : j + 7].numpy()
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            vxy = (weights * (x - mx) * (y - my)).sum()
            rows.append((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    assert ssim(a, b, value_range=2).item() == pytest.approx(np.mean(rows), rel=1e-9)


def test_of_itself_is_one_and_symmetric():
    a, b = images(2, 3, 16, 16)
    torch.testing.assert_close(ssim(a, a, value_range=2), torch.ones(2, dtype=a.dtype))
    torch.testing.assert_close(ssim(a, b, value_range=2), ssim(b, a, value_range=2))
    assert (ssim(a, b, value_range=2) < 0.99).all()


def test_constant_images_have_a_closed_form():
    # No variance: only the term of the means is left.
    a, b = torch.full((1, 1, 12, 12), 0.25).double(), torch.full((1, 1, 12, 12), -0.5).double()
    expected = (2 * 0.25 * -0.5 + 0.02**2) / (0.25**2 + 0.5**2 + 0.02**2)
    assert ssim(a, b, value_range=2).item() == pytest.approx(expected, abs=1e-9)


def test_opposite_sign_is_seen():
    # A checkerboard has next to no mean in any window, so the term of the covariance is left: (C2 - 2v) / (C2 + 2v).
    a = ((-1.0) ** torch.arange(20)[:, None] * (-1.0) ** torch.arange(20)).double()[None, None]
    assert ssim(a, -a, value_range=2).item() < -0.99


@pytest.mark.parametrize(("size", "side"), [((28, 28), 11), ((8, 8), 7), ((7, 30), 7), ((1, 1), 1), ((2, 2), 1)])
def test_window_is_odd_and_fits(size, side):
    assert window_side(*size) == side
    a, b = images(1, 1, *size)
    assert torch.isfinite(ssim(a, b, value_range=2)).all()


def test_window_sums_to_one():
    assert sum(gaussian_window(11, 1.5)) == pytest.approx(1, abs=1e-15)


def test_same_bits_in_any_batch():
    a, b = (x.float() for x in images(33, 1, 13, 17))
    whole = ssim_map(a, b, value_range=2)
    for cut in (1, 2, 7, 16):
        pieces = [ssim_map(p, q, value_range=2) for p, q in zip(a.split(cut), b.split(cut), strict=True)]
        assert torch.equal(torch.cat(pieces), whole)


def test_wrong_arguments_are_named():
    a, b = images(1, 1, 8, 8)
    with pytest.raises(ValueError, match="`a`, `b`"):
        ssim(a, b[..., 1:], value_range=2)
    with pytest.raises(ValueError, match="`a`, `b`"):
        ssim(a[0], b[0], value_range=2)
    with pytest.raises(ValueError, match="`value_range`"):
        ssim(a, b, value_range=0)
    with pytest.raises(ValueError, match="`a`, `b`"):
        cosine(a, b[..., 1:])


def test_cosine_of_known_vectors():
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[6.0, 8.0], [0.0, 2.0], [-1.0, -1.0], [1.0, 0.0]])
    values = cosine(a[:, None], b[:, None])
    torch.testing.assert_close(values[:3], torch.tensor([1.0, 0.0, -1.0]))
    assert values[3].isnan()
