"""Structure and equality."""


def test_every_mode_that_there_is_is_measured_and_a_cut_model_has_no_bar(measure):
    modes = ("--modes", "eager", "onnxruntime", "--dtypes", "float32", "bfloat16")
    record = measure("inference", *modes, "--batch-sizes", 1, 3)
    found = {(row["mode"], row["dtype"], row["batch_size"]) for row in record["rows"]}
    eager = {("eager", dtype, size) for dtype in ("float32", "bfloat16") for size in (1, 3)}
    # ONNX Runtime runs the file, which is in float32.
    assert found == eager | {("onnxruntime", "float32", size) for size in (1, 3)}
    for row in record["rows"]:
        assert row["over_dense"]["dense"]["seconds"] == [1, 1, 1]
        assert min(row["images_per_s"].values()) > 0
    params = record["params"]
    # As many as fit, and never more.
    assert 0.95 * params["published"] < params["aligned"] <= params["published"] < params["dense"]
    assert record["bars"] == []
    assert f"{params['aligned']:,} parameters" in record["printed"]


def test_an_unknown_model_is_one_line(run):
    done = run("inference", "--model", "deit_smal")
    assert done.returncode == 1
    assert done.stderr == "error: --model: got 'deit_smal', allowed: one of timm\n"
