"""The command line: what it prints, and what it says of bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import qemu_swalp
from qemu_swalp import kernels
from qemu_swalp.cli import info, main
from qemu_swalp.cli.formats import number
from qemu_swalp.formats.aliases import ALIASES

Capture = pytest.CaptureFixture[str]


def output(capsys: Capture, *arguments: str) -> str:
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def complaint(capsys: Capture, *arguments: str) -> str:
    """The one line that stderr gets, beside exit code 2."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("qemu-swalp: ")
    return lines[0]


def properties(text: str) -> dict[str, str]:
    """The two columns of `show`, until the empty line."""
    lines = text.split("\n\n")[0].splitlines()
    split = lines[1].index(" ") + 2
    return {line[:split].strip(): line[split:] for line in lines[2:]}


def test_formats_lists_every_name_with_its_string_and_properties(capsys: Capture) -> None:
    formats, _, aliases = output(capsys, "formats").split("\n\n")
    header, rule, *lines = formats.splitlines()
    assert " ".join(header.split()) == "name format bits max least > 0 values specials"
    assert set(rule) == {"─", " "}
    second, third = (i + 2 for i in (rule.index("  "), rule.index("  ", rule.index("  ") + 1)))
    starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[i].split()[0] for i in starts] == list(qemu_swalp.names())
    for i, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        name, bits = lines[i].split()[0], lines[i][third:].split()[0]
        canonical_string = "".join(line[second:third].strip() for line in lines[i:end])
        whole = qemu_swalp.parse(name).canonical_string()
        assert canonical_string == whole or (
            len(whole) > 80 and canonical_string == f"{whole[:79]}…"
        )
        assert qemu_swalp.parse(whole) == qemu_swalp.parse(name)
        assert int(bits) == qemu_swalp.parse(name).bits
    row = next(line for line in lines if line.startswith("e4m3fn "))
    assert " ".join(row.split()) == "e4m3fn float<4,3,specials=fn> 8 448 2^-9 253 −0 NaN"
    listed = " ".join(aliases.split())
    for format, called in ALIASES.items():
        assert f"{format} {', '.join(called)}" in listed


@pytest.mark.parametrize(
    "arguments",
    [
        ["formats"],
        ["show", "e4m3fn"],
        ["show", "nf4"],
        ["show", "nvfp4"],
        ["show", "p3109_k8p3se"],
        ["compare", "mxfp4", "nvfp4", "fixed<8,6>", "takum16"],
    ],
    ids=" ".join,
)
def test_tables_fit_a_terminal_of_100_columns(capsys: Capture, arguments: list[str]) -> None:
    wide = [line for line in output(capsys, *arguments).splitlines() if len(line) > 100]
    # A long string is no part of the table: one word below it, to be copied
    assert [line for line in wide if not line.startswith("written as: ")] == []


def test_info_fits_a_terminal_of_100_columns(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "FRAMEWORKS", ("numpy", "torch"))
    lines = output(capsys, "info").splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("compiled kernels" in line or "reference" in line for line in lines) >= 2


def test_without_arguments_it_tells_what_there_is(capsys: Capture) -> None:
    text = output(capsys)
    assert text.startswith("usage: qemu-swalp")
    for command in ("formats", "show", "compare", "quantize", "dequantize", "info", "reproduce"):
        assert f"\n  {command} " in text


def test_show_gives_parameters_properties_and_values(capsys: Capture) -> None:
    text = output(capsys, "show", "e2m1fn")
    found = properties(text)
    assert found["written"] == "float<2,1,specials=finite>"
    assert (found["exponent"], found["mantissa"], found["bias"], found["subnormals"]) == (
        "2",
        "1",
        "1",
        "yes",
    )
    assert (found["range"], found["least normal"], found["least subnormal"]) == (
        "-6 to 6",
        "1",
        "0.5",
    )
    assert (found["number of values"], found["special values"]) == ("15", "−0")
    values = text.split("code: value\n")[1].split()
    assert values[:4] == ["0:", "0", "1:", "0.5"]
    assert values[16:18] == ["8:", "−0"]
    assert values[-2:] == ["f:", "-6"]


def test_show_lists_infinities_and_nan_among_the_codes(capsys: Capture) -> None:
    values = output(capsys, "show", "e5m2").split("code: value\n")[1]
    for entry in ("7c: ∞", "fc: −∞", "7e: NaN", "01: 2^-16", "03: 3·2^-16", "80: −0"):
        assert entry in values


def test_show_leaves_out_the_values_of_formats_that_have_many(capsys: Capture) -> None:
    assert "code" not in output(capsys, "show", "bf16")


def test_show_explains_blocks(capsys: Capture) -> None:
    found = properties(output(capsys, "show", "bfp<4,axis=0>"))
    assert found["element"] == "fixed<4,2,symmetric>"
    assert found["bits"] == "4 per element, 8 per block"
    assert found["block"] == "each index of axis 0"
    assert found["scale"] == "2^S, S = ⌊log2 max|x|⌋, from -128 to 127"
    assert found["range"] == "-1.75·2^S to 1.75·2^S"
    assert (
        properties(output(capsys, "show", "bfp<8,axis=-1,size=16>"))["block"]
        == "16 elements in a row along axis -1"
    )
    assert properties(output(capsys, "show", "bfp8"))["block"] == "the whole array"
    assert properties(output(capsys, "show", "bfp<8,range=twos>"))["idempotent"] == "no"
    assert (
        "S = ⌊log2 max|x|⌋ − 2,"
        in properties(output(capsys, "show", "block<e2m1fn,axis=0>"))["scale"]
    )


def test_show_takes_codebooks_and_formats_of_a_file(capsys: Capture, tmp_path: Path) -> None:
    assert "0: -1   1: 0    2: 0.5  3: 1" in output(capsys, "show", "codebook<-1,0,0.5,1>")
    file = tmp_path / "mine.toml"
    file.write_text(
        '[formats.mine_for_cli]\nfamily = "float"\nexponent = 3\nmantissa = 2\nspecials ='
        ' "finite"\n'
    )
    try:
        assert (
            "mine_for_cli"
            in properties(output(capsys, "show", "mine_for_cli", "--load", str(file)))["names"]
        )
        assert "mine_for_cli" in output(capsys, "formats")
    finally:
        qemu_swalp.unregister("mine_for_cli")


def test_formats_of_a_python_file(capsys: Capture, tmp_path: Path) -> None:
    """The class itself, which no TOML file can say."""
    file = tmp_path / "fibonacci.py"
    file.write_text(
        "import dataclasses, qemu_swalp as q\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Fibonacci(q.TableFormat, family='fibonacci_test'):\n"
        "    table = (0, 1, 2, 3, 5, 8, 13, 21)\n"
        "q.register('fib3', Fibonacci())\n"
    )
    try:
        text = output(capsys, "show", "fib3", "--load", str(file))
        assert properties(text)["written"] == "fibonacci_test<>"
        assert "4: 5   5: 8   6: 13  7: 21" in text
    finally:
        qemu_swalp.unregister("fib3")
        del qemu_swalp.formats.base.FAMILIES["fibonacci_test"]
    file.write_text("1 / 0")
    assert "fibonacci.py: ZeroDivisionError: division by zero" in complaint(
        capsys, "formats", "--load", str(file)
    )
    assert "No such file" in complaint(capsys, "formats", "--load", str(tmp_path / "absent.py"))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (448.0, "448"),
        (0.0, "0"),
        (2.0**-9, "2^-9"),
        (-(2.0**127), "-2^127"),
        (3 * 2.0**-20, "3·2^-20"),
        (65504.0, "65504"),
        (1.984375, "1.984375"),
        (3.3895313892515355e38, "3.389531e+38"),
        (5e-324, "2^-1074"),
    ],
)
def test_numbers_are_short_and_exact_where_they_can_be(x: float, text: str) -> None:
    assert number(x) == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "e4m3f"], "unknown format 'e4m3f'; did you mean 'e4m3fn'?"),
        (["show", "fixed<8"], "cannot read the format 'fixed<8'"),
        (["show", "fixed<40,2>"], "word must be from 2 to 32, got 40"),
        (["show", "block<fixed<8,6>,axis=q>"], "axis, a number or a word, must be one of out"),
        (["show", "e5m2", "--load", "/no/such/file.toml"], "No such file"),
        (["show"], "the following arguments are required: FORMAT (see qemu-swalp show --help)"),
        (["shew", "e5m2"], "invalid choice: 'shew'"),
        (["reproduce", "cifar"], "invalid choice: 'cifar'"),
        (["reproduce", "digits", "--seeds", "0"], "--seeds must be above 0, got 0"),
        (["reproduce", "digits", "--seeds", "some"], "argument --seeds: invalid int value: 'some'"),
        (["reproduce", "digits", "--start", "500"], "--start must be less than --epochs"),
        (
            ["reproduce", "digits", "--network-start", "20"],
            "--network-start must be less than --network-epochs",
        ),
        (
            ["reproduce", "linear-regression", "--learning-rate", "nan"],
            "--learning-rate must be above 0, got nan",
        ),
        (
            ["reproduce", "linear-regression", "--fractions", "4", "30"],
            "--fractions must be at most 20, got 30",
        ),
        (
            ["reproduce", "linear-regression", "--samples", "10"],
            "--samples must exceed --dimension",
        ),
        (
            ["reproduce", "logistic-regression", "--framework", "core", "mxnet"],
            "invalid choice: 'mxnet'",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    capsys: Capture, tmp_path: Path, arguments: list[str], words: str
) -> None:
    here = ["--out", str(tmp_path)] if "reproduce" in arguments and len(arguments) > 2 else []
    assert words in complaint(capsys, *arguments, *here)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["matplotlib", "tqdm", "sklearn"])
def test_a_missing_requirement_names_the_extra(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    text = complaint(capsys, "reproduce", "digits", "--quick", "--out", str(tmp_path))
    assert f"needs {module}" in text
    assert "pip install 'qemu-swalp[experiments]'" in text


def test_missing_torch_names_the_extra(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "qemu_swalp_torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    text = complaint(
        capsys, "reproduce", "logistic-regression", "--framework", "torch", "--out", str(tmp_path)
    )
    assert "pip install 'qemu-swalp[torch]'" in text


def test_help_tells_the_options_with_their_defaults(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["reproduce", "linear-regression", "--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "--seed N",
        "(default: 4 6 8)",
        "--out DIR",
        "(default: results/linear-regression)",
        "--quick",
    ):
        assert part in text


def test_info_reports_libraries_absent_and_broken_ones_too(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "brokenlib.py").write_text("raise RuntimeError('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(info, "FRAMEWORKS", ("numpy", "brokenlib", "absentlib"))
    monkeypatch.setattr(info, "DEVICES", info.DEVICES | {"brokenlib": "[]", "absentlib": "[]"})
    lines = {line.split()[0]: line.split() for line in output(capsys, "info").splitlines() if line}
    import numpy

    assert lines["qemu_swalp"] == ["qemu_swalp", qemu_swalp.__version__]
    assert lines["numpy"][:5] == ["numpy", numpy.__version__, "yes", "cpu", "compiled"]
    assert lines["brokenlib"][1:] == ["–", "no:", "RuntimeError:", "no", "driver", "–", "–"]
    assert lines["absentlib"][1:] == ["–", "no:", "not", "installed", "–", "–"]


def test_info_probes_pytorch(capsys: Capture) -> None:
    import torch

    found = info.probe("torch")
    assert (found.version, found.importable) == (torch.__version__, "yes")
    assert "cpu" in found.devices
    assert found.path.startswith("compiled kernels (")
    assert "on CUDA the reference implementation, since CuPy is not installed" in found.path


@pytest.mark.parametrize(
    ("library", "ways"),
    [
        ("jax", ["on a CPU as a custom call of XLA, eager and compiled"]),
        (
            "tensorflow",
            ["eager as an operation", "in graphs as that, and under XLA as a custom call"],
        ),
    ],
)
def test_info_says_how_programs_call_the_kernels(library: str, ways: list[str]) -> None:
    path = info.probe(library).path
    for way in ways:
        assert f"{way}: compiled kernels (" in path
    assert "on a GPU: reference implementation, since kernels for GPUs take the arrays of" in path
    refused = info.path(library, False, dict.fromkeys(ways, "its version is unknown"))
    for way in ways:
        assert f"{way}: reference implementation, since its version is unknown" in refused


def test_info_says_why_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemu_swalp.kernels.cpu._loaded", lambda: (None, "no compiled kernels"))
    assert info.path("numpy", True).startswith(
        "reference implementation: no compiled kernels; install from source with a C++"
    )
    with kernels.disabled():
        assert (
            info.path("numpy", True) == "reference implementation, since QEMU_SWALP_KERNELS is off"
        )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


def test_the_module_and_the_script_run() -> None:
    for command in (
        [sys.executable, "-m", "qemu_swalp"],
        [str(Path(sys.executable).parent / "qemu-swalp")],
    ):
        done = run(*command, "--version")
        assert (done.returncode, done.stdout) == (0, f"qemu-swalp {qemu_swalp.__version__}\n")
        wrong = run(*command, "show", "nonsense")
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("qemu-swalp: unknown format 'nonsense'")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"set -o pipefail; {sys.executable} -m qemu_swalp formats | head -1"
    done = run("bash", "-c", command)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_line_imports_no_framework_until_it_is_asked_to() -> None:
    heavy = (
        "torch",
        "tensorflow",
        "jax",
        "cupy",
        "matplotlib",
        "sklearn",
        "tqdm",
        "safetensors",
        "urllib.request",
    )
    script = (
        f"import sys, qemu_swalp.cli as c; c.main(['formats']); print([m for m in {heavy} if m in"
        " sys.modules])"
    )
    assert run(sys.executable, "-c", script).stdout.splitlines()[-1] == "[]"
