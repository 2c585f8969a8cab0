"""`deepmd-gnn plot`: the figures show the numbers of the files."""

import subprocess
import sys

import numpy as np
import pytest

from deepmd_gnn.cli import main
from deepmd_gnn.tools.plots import PALETTE, learning_curve_figure, parity_figure
from deepmd_gnn.tools.result_files import Series, read_details, read_learning_curve

CURVE = """\
# step       rmse_val    rmse_trn    rmse_e_val  rmse_e_trn    rmse_f_val  rmse_f_trn    rmse_v_val  rmse_v_trn   lr
# If there is no available reference data, rmse_*_{val,trn} will print nan
      1      1.80e+01    1.70e+01      4.00e-02    8.00e-02      1.80e+00    1.70e+00      nan   nan    1.0e-02
    100      1.50e+01    1.60e+01      2.00e-02    3.00e-02      1.50e+00    1.60e+00      nan   nan    5.0e-03
    200      1.10e+01    1.20e+01      1.00e-02    0.00e+00      1.10e+00    1.20e+00      nan   nan    0.0e+00
"""
MULTI = """\
# step    rmse_trn_one   rmse_e_trn_one   rmse_f_trn_one   rmse_val_two rmse_trn_two   rmse_e_val_two rmse_e_trn_two   lr
      1      3.30e+01      1.05e-01      3.30e+00      2.15e+01    2.04e+01      6.42e-02    9.83e-02    1.0e-02
"""


def write(path, text):
    path.write_text(text)
    return path


def details(folder, prefix="test", energy=None, force=None, virial=None, headers=None):
    """Detail files of `dp test`; a table per header."""
    tables = {"e_peratom": energy, "f": force, "v_peratom": virial}
    for suffix, groups in tables.items():
        lines = []
        for header, rows in zip(headers or ["/data/a"], groups, strict=True):
            if header is not None:
                lines.append(f"# {header}: data_x pred_x")
            lines += [" ".join(f"{value:.17e}" for value in row) for row in rows]
        write(folder / f"{prefix}.{suffix}.out", "\n".join(lines) + "\n")
    return folder / prefix


def virials(reference, prediction):
    return [[reference] * 9 + [prediction] * 9]


def test_learning_curve_shows_the_columns(tmp_path):
    figure = learning_curve_figure(read_learning_curve(write(tmp_path / "lcurve.out", CURVE)))
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["energy RMSE (meV/atom)", "force RMSE (meV/Å)", "learning rate"]  # no virial: all nan
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"training batch", "validation"}
    np.testing.assert_allclose(lines["validation"].get_ydata(), [40, 20, 10])
    np.testing.assert_allclose(lines["training batch"].get_ydata(), [80, 30, np.nan])  # zero has no logarithm
    np.testing.assert_allclose(figure.axes[1].lines[1].get_ydata(), [1800, 1500, 1100])
    np.testing.assert_allclose(figure.axes[2].lines[0].get_ydata(), [0.01, 0.005, np.nan])
    for axis in figure.axes:
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), [1, 100, 200])
        assert axis.get_yscale() == "log"
        assert axis.get_xlabel() == "training step"


def test_flat_learning_curve_has_labelled_ticks(tmp_path):
    text = "# step rmse_f_trn lr\n 1 7.3e-1 1e-3\n 2 7.3e-1 1e-3\n"
    figure = learning_curve_figure(read_learning_curve(write(tmp_path / "lcurve.out", text)))
    figure.draw_without_rendering()
    for axis in figure.axes:
        low, high = axis.get_ylim()
        assert [
            tick
            for tick in axis.yaxis.get_major_ticks()
            if low <= tick.get_loc() <= high and tick.label1.get_text()
        ]


def test_learning_curve_of_several_heads(tmp_path):
    figure = learning_curve_figure(read_learning_curve(write(tmp_path / "lcurve.out", MULTI)))
    energy, force = ({line.get_label() for line in axis.lines} for axis in figure.axes[:2])
    assert energy == {"training batch, one", "training batch, two", "validation, two"}
    assert force == {"training batch, one"}
    colours = {line.get_label().split(", ")[1]: line.get_color() for line in figure.axes[0].lines}
    assert colours == {"one": PALETTE[0], "two": PALETTE[1]}


def test_restart_replaces_the_abandoned_steps(tmp_path):
    again = "    100      1.50e+01    1.60e+01      9.00e-02    3.00e-02      1.50e+00    1.60e+00 nan nan 5.0e-03\n"
    header = CURVE.splitlines(keepends=True)[0]
    curve = read_learning_curve(write(tmp_path / "lcurve.out", CURVE + header + again))
    assert curve.columns["step"].tolist() == [1, 100]
    assert curve.columns["rmse_e_val"].tolist() == [0.04, 0.09]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CURVE + "    300      1.1e+01\n", "line 6: 2 columns instead of 10; cut off?"),
        (CURVE + "    300      x\n", "line 6: could not convert"),
        (CURVE + "# step rmse_trn lr\n", "line 6: the columns change"),
        ("", "no rows with a training step"),
        ("1 2 3\n", "line 1: 3 columns instead of 0"),
        ("# step rmse_trn lr\n1 2 3\n", "no RMSE of energy, force or virial among the columns step, rmse_trn, lr"),
        (None, "no such file"),
    ],
)  # fmt: skip
def test_bad_learning_curve(text, words, tmp_path, capsys):
    path = tmp_path / "lcurve.out"
    if text is not None:
        write(path, text)
    assert main(["plot", "lcurve", str(path), "-o", str(tmp_path / "a.png")]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def scattered(axis):
    return np.asarray(axis.collections[0].get_offsets())


def test_parity_shows_the_points_and_their_errors(tmp_path):
    prefix = details(
        tmp_path,
        energy=[[[-2.000, -2.003], [-2.002, -1.998]]],
        force=[[[1, 2, 3, 1.1, 2, 3], [0, 0, 0, 0, 0, -0.2]]],
        virial=[virials(0.5, 0.6)],
    )
    quantities = {quantity: read_details(prefix, quantity)[0] for quantity in ("energy", "force", "virial")}
    figure = parity_figure(quantities)
    energy, force, virial = figure.axes
    assert energy.get_title() == "2 frames: RMSE 3.54, MAE 3.50 meV/atom"  # errors −3 and 4 meV
    assert (
        force.get_title() == "RMSE 91.3, MAE 50.0 meV/Å"
    )  # of six components one is off by 0.1, one by −0.2
    assert virial.get_title() == "RMSE 100, MAE 100 meV/atom"
    order = np.argsort(scattered(energy)[:, 0])
    np.testing.assert_allclose(scattered(energy)[order], [[-1, 3], [1, -2]], atol=1e-9)  # off the mean, meV
    pairs = sorted(map(tuple, scattered(force).round(9)))
    assert pairs == [(0, -0.2), (0, 0), (0, 0), (1, 1.1), (2, 2), (3, 3)]
    assert force.get_xlim() == force.get_ylim()
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "reference energy − mean (meV/atom)\nzero: −2.0010 eV/atom",
        "reference force component (eV/Å)",
        "reference virial component (eV/atom)",
    ]
    assert not figure.legends


def test_systems_have_colours_of_their_own(tmp_path):
    rng = np.random.default_rng(0)
    groups = [[[base + x, base + x] for x in rng.random(5)] for base in (-2000.0, -10.0)]
    prefix = details(
        tmp_path,
        headers=["/data/water", "/data/ice"],
        energy=groups,
        force=[[[1.0] * 6], [[2.0] * 6]],
        virial=[virials(1, 1), virials(2, 2)],
    )
    quantities = {quantity: read_details(prefix, quantity)[0] for quantity in ("energy", "force", "virial")}
    assert [series.name for series in quantities["force"]] == ["/data/water", "/data/ice"]
    figure = parity_figure(quantities)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "water (5 frames)",
        "ice (5 frames)",
    ]
    # Far apart in energy, they share a panel of the size of their own spread.
    assert np.ptp(figure.axes[0].get_xlim()) < 1500
    assert "system mean" in figure.axes[0].get_xlabel()
    force = figure.axes[1].collections[0]
    for (x, _), colour in zip(force.get_offsets(), force.get_facecolors(), strict=True):
        expected = PALETTE[0] if x == 1.0 else PALETTE[1]
        np.testing.assert_allclose(colour[:3], [int(expected[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def test_one_comment_line_does_not_name_all_rows(tmp_path):
    """DeePMD-kit 3.2 names only the first of several systems, so the name would be wrong for the others."""
    prefix = details(tmp_path, energy=[[[1, 1], [2, 2]]], force=[[[1] * 6]], virial=[virials(1, 1)])
    assert [series.name for series in read_details(prefix, "energy")[0]] == [str(prefix)]


def test_rows_without_reference_are_left_out_and_counted(tmp_path, capsys):
    prefix = details(
        tmp_path,
        energy=[[[-1, -1.001], [-2, -2.001]]],
        force=[[[0] * 3 + [0.5] * 3, [1.0] * 6]],
        virial=[[[0.0] * 9 + [0.7] * 9, [0.5] * 9 + [0.6] * 9]],
    )
    series, left_out = read_details(prefix, "virial")
    assert left_out == 1
    assert series[0].reference.shape == (1, 9)
    assert len(read_details(prefix, "force")[0][0].reference) == 2  # a force may be zero
    assert main(["plot", "parity", str(prefix), "-o", str(tmp_path / "a.svg")]) == 0
    assert "virial: 1 rows without reference are left out" in capsys.readouterr().err


def test_quantity_without_any_reference_has_no_panel():
    pair = np.ones((2, 1))
    figure = parity_figure({"energy": [Series("a", pair, pair)], "force": [], "virial": []})
    assert len(figure.axes) == 1
    with pytest.raises(ValueError, match="no reference energies"):
        parity_figure({"energy": [], "force": [], "virial": []})


def test_many_systems(tmp_path):
    names = [f"/data/{k}/same" for k in range(25)]
    series = [Series(name, np.full((1, 3), k), np.full((1, 3), k)) for k, name in enumerate(names)]
    texts = [text.get_text() for text in parity_figure({"force": series}).legends[0].get_texts()]
    assert texts == [*names[:20], "and 5 more"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_files(suffix, tmp_path, capsys):
    source = write(tmp_path / "lcurve.out", CURVE)
    output = tmp_path / f"figure{suffix}"
    assert main(["plot", "lcurve", str(source), "-o", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    assert {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}[suffix] in output.read_bytes()[:1000]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plot", "lcurve", "{folder}/lcurve.out", "-o", "a.gif"], "must end in one of .png, .svg, .pdf"),
        (
            ["plot", "lcurve", "{folder}/lcurve.out", "-o", "{folder}/no/a.png"],
            "no does not exist. Create it first.",
        ),
        (["plot", "parity", "{folder}/nothing"], "nothing.e_peratom.out: no such file; `dp test -d"),
    ],
)
def test_bad_arguments(arguments, words, tmp_path, capsys):
    write(tmp_path / "lcurve.out", CURVE)
    assert main([argument.format(folder=tmp_path) for argument in arguments]) == 1
    assert words in capsys.readouterr().err


def test_nothing_global_is_touched(tmp_path):
    source = write(tmp_path / "lcurve.out", CURVE)
    code = (
        "import sys, matplotlib\n"
        "def settings(): return dict(dict.items(matplotlib.rcParams))\n"  # not by key, which chooses a backend
        "before = settings()\nfrom deepmd_gnn.cli import main\n"
        "assert main(sys.argv[1:]) == 0\nassert settings() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    command = [
        sys.executable, "-c", code, "plot", "lcurve", str(source), "-o", str(tmp_path / "a.png")
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=60)
