"""space.py: the plane against numpy's SVD, what stands on the map, figures of anything."""

import numpy as np
import pytest
from PIL import Image

from captioner.files import digest
from captioner.space import draw_map, draw_neighbours, principal_plane


def test_the_plane_is_that_of_the_singular_values():
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(50, 6)) * [5, 1, 3, 0.5, 0.2, 0.1]).astype(np.float32) + 7
    mean, plane, shares = principal_plane(vectors)
    centered = vectors - vectors.mean(0, dtype=np.float64)
    _, values, directions = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane.T @ directions[:2].T), np.eye(2), atol=1e-6)
    np.testing.assert_allclose(shares, (values**2 / (values**2).sum())[:2])
    assert (plane[np.abs(plane).argmax(0), [0, 1]] > 0).all()
    np.testing.assert_allclose(mean, vectors.mean(0, dtype=np.float64))


def plain(rows) -> list[np.ndarray]:
    return [np.full((8, 8, 3), row % 256, np.uint8) for row in rows]


def test_each_cell_shows_its_first_picture(tmp_path):
    """Four far-off groups of pictures: one of each on the map, and no more."""
    corners = np.array([[1, 0.5, 0], [-1, 0.5, 0], [1, -0.5, 0], [-1, -0.5, 0]])
    pictures = np.tile(corners, (5, 1)) + np.random.default_rng(2).normal(0, 1e-4, (20, 3))
    asked = []

    def pixels_of(rows):
        asked.extend(rows)
        return plain(rows)

    count = draw_map(tmp_path / "map.png", pictures, pictures[:3], pixels_of, "$title$\n<b>")
    assert count == 4 and sorted(asked) == [0, 1, 2, 3]
    with Image.open(tmp_path / "map.png") as image:
        assert image.width > 1000 and image.format == "PNG"
    before = digest(tmp_path / "map.png")
    draw_map(tmp_path / "map.png", pictures, pictures[:3], plain, "$title$\n<b>")
    assert digest(tmp_path / "map.png") == before


@pytest.mark.parametrize("pictures", [np.ones((3, 4)), np.eye(4), np.zeros((5, 2))])
def test_pictures_in_one_place(tmp_path, pictures):
    assert draw_map(tmp_path / "map.png", pictures, pictures[:1], plain, "all") >= 1


def test_neighbours_with_captions_of_any_kind(tmp_path):
    (one, two, three) = plain([1, 2, 3])
    rows = [
        (
            (one, "a $\\frac{circle}$ <script>"),
            [(two, "一只狗 " * 9, "looks 0.1"), (three, "", "")],
        ),
        ((two, ""), []),
    ]
    draw_neighbours(tmp_path / "rows.png", rows, "neighbours")
    with Image.open(tmp_path / "rows.png") as image:
        assert image.width > 900 and image.height > 300
