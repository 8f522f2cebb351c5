"""`qemu-swalp report`: one page that needs nothing else, whose tables are the results'."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qemu_swalp.cli import main, parser as command_line
from qemu_swalp.experiments import load_experiment
from qemu_swalp.experiments.common.html import page

VOID = {"meta", "img", "link", "br"}


class Reader(HTMLParser):
    """Checks that every element is closed in order; collects tables, images, links, identities."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.attributes: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.setdefault(tag, []).append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    for name, more in (
        ("linear-regression", ["--seeds", "3"]),
        ("digits", ["--framework", "torch"]),
    ):
        assert main(["reproduce", name, "--quick", "--out", str(folder / name), *more]) == 0
    return folder


def test_the_page_has_tables_pictures_commands_and_environments(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sub" / "report.html"
    assert (
        main(
            [
                "report",
                str(results / "linear-regression" / "results.json"),
                str(results / "digits"),
                "--out",
                str(out),
                "--title",
                "a <title>",
            ]
        )
        == 0
    )
    assert f"2 results; written: {out}" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    reader = Reader(text)
    assert "<h1>a &lt;title&gt;</h1>" in text
    content = json.loads((results / "linear-regression" / "results.json").read_text())
    swalp = next(row for row in content["summary"] if row["method"] == "SWALP")
    assert any("SWALP" in row and any("±" in cell for cell in row) for row in reader.rows)
    assert swalp["format" if "format" in swalp else "weights"] in {
        cell for row in reader.rows for cell in row
    }
    assert ["numpy", content["environment"]["versions"]["numpy"]] in reader.rows
    assert ["seeds", "3"] in reader.rows
    assert "qemu-swalp reproduce linear-regression --seeds 3" in text
    panels = sum(len(list((results / n).glob("*.svg"))) for n in ("linear-regression", "digits"))
    assert len(reader.attributes["img"]) == panels == 5


def test_the_page_needs_nothing_else_and_is_accessible(results: Path, tmp_path: Path) -> None:
    assert main(["report", str(results), "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    assert "url(" not in text
    assert "script" not in reader.attributes
    assert reader.attributes["html"] == [{"lang": "en"}]
    assert all(image["alt"] for image in reader.attributes["img"])
    assert all(head.get("scope") in ("col", "row") for head in reader.attributes["th"])
    assert len(reader.attributes["caption"]) == len(reader.attributes["table"])
    identities = [a["id"] for tags in reader.attributes.values() for a in tags if "id" in a]
    assert len(set(identities)) == len(identities)
    assert {a["href"] for a in reader.attributes["a"]} <= {f"#{i}" for i in identities}
    assert re.findall(r"<(h\d)", text) == ["h1", "h2", "h2"]


def test_parts_and_formats_are_named_and_one_seed_has_no_deviation(results: Path) -> None:
    file = results / "digits" / "results.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["settings"]["seeds"] = 1
    content["text"] = ""
    text = page([(file, content)])
    assert "softmax regression, weights in fixed point: of one seed</caption>" in text
    assert "network, every number in block floating point: of one seed</caption>" in text
    rows = Reader(text).rows
    assert {row[0] for row in rows} >= {"format", "float32", "fixed<8,4>", "bfp<4>"}
    assert not any("±" in cell for row in rows for cell in row)


def test_single_runs_are_told_where_there_are_lines_of_them(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(results / "digits", copy)
    runs = [
        {
            "kind": "plain",
            "word": word,
            "seed": 3,
            "seconds": 1.5,
            "command": "qemu-swalp & co",
            "environment": {"device": "cpu", "processor": "Z80"},
        }
        for word in (None, 8)
    ]
    (copy / "runs.jsonl").write_text("\n".join(map(json.dumps, runs)) + '\n{"kind": "cut o')
    assert main(["report", str(copy), "--out", str(tmp_path / "r.html")]) == 0
    rows = Reader((tmp_path / "r.html").read_text(encoding="utf-8")).rows
    for word in ("float32", "8"):
        assert ["plain", word, "3", "1.5", "cpu", "Z80", "qemu-swalp & co"] in rows


def test_what_results_say_is_no_markup(tmp_path: Path) -> None:
    content = {
        "experiment": "<b>x",
        "command": "<i>",
        "settings": {"a": "<script>", "b": True, "c": [1, 2]},
        "environment": {"versions": {}},
        "seconds": 1.0,
        "text": "</pre>",
        "summary": [{"method": "<u>", "loss": {"mean": None, "std": None}, "empty": ""}],
    }
    text = page([(tmp_path / "results.json", content)])
    reader = Reader(text)
    assert not {"b", "i", "u", "script"} & set(reader.attributes)
    assert ["<u>", "diverged"] in reader.rows
    assert ["method", "loss"] in reader.rows
    assert {("b", "yes"), ("c", "1, 2")} <= {tuple(row) for row in reader.rows}
    assert "No picture: &lt;b&gt;x-1.svg is not beside the results." in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no results.json; give the file, or the folder"),
        ("{", "is not a results.json"),
        ("[]", "is not a results.json of this version, with command, environment"),
        ('{"experiment": 1}', "run `qemu-swalp reproduce` again"),
    ],
)
def test_what_is_no_result_is_refused(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_the_command_of_settings_makes_them_again() -> None:
    kind = load_experiment("mnist-lenet").Settings
    for settings in (
        kind(),
        kind(
            seeds=1,
            words=(8, 4),
            include_start=False,
            resume=True,
            out="a b",
            decay_end=0.95,
            method=("sgd", "ema"),
            block="big",
        ),
    ):
        words = shlex.split(settings.command("mnist-lenet"))
        chosen = vars(command_line().parse_args(words[1:]))
        again = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in chosen.items()
            if key in kind.__dataclass_fields__
        }
        assert kind(**again) == settings


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="no Chromium is installed (Debian's package chromium)"
)
def test_a_browser_reads_the_same_tables(results: Path, tmp_path: Path) -> None:
    assert main(["report", str(results), "--out", str(tmp_path / "r.html")]) == 0
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        ["chromium", *flags, "--dump-dom", (tmp_path / "r.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    ours, theirs = Reader((tmp_path / "r.html").read_text(encoding="utf-8")), Reader(done.stdout)
    assert theirs.rows == ours.rows
    assert len(ours.rows) > 20
    assert theirs.attributes["img"] == ours.attributes["img"]
