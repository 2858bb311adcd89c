import numpy as np

from analysis import fig_token_sources as fig

(EXHIBIT,) = fig.EXHIBITS

# 3 x 3 patches; block 1 drops patch 8 and merges 0 and 1, block 2 merges 5 into them.
WHOLE = list(range(9))
FIRST = [1, 1, 2, 3, 4, 5, 6, 7, -1]
SECOND = [1, 1, -1, 3, 4, 1, 6, 7, -1]


def write(folder, tokens=(WHOLE, FIRST, SECOND), counts=((9, 9, 9), (9, 8, 7), (7, 6, 5)), **more):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    found = {
        "images": rng.integers(1, 255, (2, 6, 6, 3), dtype=np.uint8),
        "names": np.array(["one.png", "two.png"]),
        "tokens": np.array([tokens, tokens], np.int16),
        "counts": np.array(counts),
        "model": np.array("a_model"),
        "container": np.array("blocks"),
    }
    np.savez(folder / "tokens.npz", **(found | more))
    return folder


def test_data_has_a_patch_a_row_of_the_blocks_that_compress(tmp_path):
    table = fig.data(write(tmp_path))
    assert tuple(table.columns) == fig.COLUMNS
    assert len(table) == 2 * 2 * 9 and set(table["block"]) == {1, 2}
    one = table[(table["image"] == 0) & (table["block"] == 2)]
    assert list(one["token"]) == SECOND
    assert list(one["patches"]) == [3, 3, 0, 1, 1, 3, 1, 1, 0]
    assert list(one["row"] * 3 + one["column"]) == WHOLE


def test_of_many_blocks_some_are_shown_first_and_last_among_them(tmp_path):
    depth = 20
    counts = [(9, 9, 9), *[(9, 9, 8)] * (depth - 2), (8, 8, 8)]
    root = write(tmp_path, tokens=[WHOLE] * depth, counts=counts)
    blocks = sorted(set(fig.data(root)["block"]))
    assert len(blocks) == fig.MOST and (blocks[0], blocks[-1]) == (1, 18)
    assert set(fig.data(root, blocks=[3, 19])["block"]) == {3, 19}


def test_a_merged_token_has_the_mean_color_and_a_dropped_patch_is_dark():
    pixels = np.random.default_rng(0).random((6, 6, 3))
    tokens = np.array(FIRST).reshape(3, 3)
    sizes = np.array([2, 2, 1, 1, 1, 1, 1, 1, 0]).reshape(3, 3)
    found = fig.filled(pixels, tokens, sizes)
    mean = pixels[0:2, 0:4].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(found[0:2, 0:4], np.broadcast_to(mean, (2, 4, 3)))
    np.testing.assert_array_equal(found[2:4], pixels[2:4])
    np.testing.assert_array_equal(found[0:2, 4:], pixels[0:2, 4:])
    expected = 0.2 * pixels[4:, 4:] + 0.8 * np.array(fig.SLATE)
    np.testing.assert_allclose(found[4:, 4:], expected)


def test_the_outline_is_that_of_each_part_of_a_token():
    tokens = np.array(SECOND).reshape(3, 3)
    lines = {tuple(sorted(line)) for line in fig.borders(tokens, 1)}
    # Two patches in the first row and one in the second: six sides and four, none between the two.
    pair = {
        ((0, 0), (1, 0)),
        ((1, 0), (2, 0)),
        ((2, 0), (2, 1)),
        ((0, 0), (0, 1)),
        ((0, 1), (1, 1)),
        ((1, 1), (2, 1)),
    }
    single = {((2, 1), (3, 1)), ((3, 1), (3, 2)), ((2, 2), (3, 2)), ((2, 1), (2, 2))}
    assert lines == pair | single


def test_a_row_per_image_and_a_column_per_block(tmp_path, drawn):
    names = np.array(["one.png", "x" * 90])
    figure = drawn(EXHIBIT, fig.data(write(tmp_path, names=names)))
    panels = np.array(figure.axes).reshape(2, 3)
    titles = [ax.get_title(loc="left") for ax in panels[0]]
    assert titles == ["one.png", "block 1: 7 of 9", "block 2: 5 of 9"]
    assert panels[1, 0].get_title(loc="left").endswith("x…")
    outlines = [collection.get_gid() for collection in panels[1, 2].collections]
    assert outlines == ["token:1"] and len(panels[1, 0].collections) == 0
    shown = panels[0, 0].images[0].get_array()
    np.testing.assert_allclose(shown, np.load(tmp_path / "tokens.npz")["images"][0] / 255)


def test_gray_images_are_shown_gray(tmp_path, drawn):
    gray = np.full((2, 6, 6, 1), 51, np.uint8)
    figure = drawn(EXHIBIT, fig.data(write(tmp_path, images=gray)))
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), np.full((6, 6, 3), 0.2))


def test_what_cannot_be_drawn_is_refused_in_a_line(tmp_path, capsys):
    assert fig.main([str(tmp_path)]) == 2
    assert "tokens.npz: got no such file, allowed: what `adacomcat trace" in capsys.readouterr().err
    (tmp_path / "tokens.npz").write_bytes(b"PK no archive")
    assert fig.main([str(tmp_path)]) == 2
    assert "got a file that does not read" in capsys.readouterr().err
    np.savez(tmp_path / "tokens.npz", tokens=np.zeros(3))
    assert fig.main([str(tmp_path)]) == 2
    assert "without: got ['container', 'counts', 'images', 'model', 'names']" in (
        capsys.readouterr().err
    )
    write(tmp_path)
    assert fig.main([str(tmp_path), "--blocks", "3"]) == 2
    assert "--blocks: got 3, allowed: from 0 to 2" in capsys.readouterr().err


def test_the_summary_has_an_image_and_a_block_per_row(tmp_path):
    (shown,) = fig.summarize(fig.data(write(tmp_path))).values()
    assert len(shown) == 4 and shown.iloc[0].tolist() == ["one.png", 1, 7, 2, 1]
