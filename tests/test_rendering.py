"""What people see: characters made harmless, columns that fit, bars, numbers."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from pathlib import Path

import ckptdiff
import numpy as np
import pytest
from ckptdiff.render import markdown, table
from ckptdiff.render.bars import bar, common_range, sparkline
from ckptdiff.render.escape import escape
from ckptdiff.render.layout import Column, Strip, cut_middle, display_width, table_lines
from ckptdiff.render.listing import Listing
from ckptdiff.render.screen import Screen
from ckptdiff.render.units import (
    duration,
    exponential,
    human_bytes,
    human_count,
    index_text,
    percent,
    rate,
    scientific,
    shape_text,
)

from tests.writers import tensor, write_file, write_sharded

HOSTILE = "w\x1b[2J\n\r\t\x07\x9b|`<b>&\u202e\u2066\u200b\ufeff\u2028\U000e0041é漢😀"
WIDE = Screen(width=None, height=None, color=False)


def screen(width: int | None = None, *, color: bool = False, unicode: bool = True) -> Screen:
    return Screen(width=width, height=None, color=color, unicode=unicode)


def is_harmless(text: str) -> bool:
    """Whether nothing in it moves a cursor or reorders what follows."""
    return all(
        character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp", "Cs")
        for character in text
    )


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    a = {HOSTILE: tensor([1.0, 2.0]), "only" + HOSTILE: tensor([1.0])}
    a["shape" + HOSTILE] = tensor([1.0])
    b = {HOSTILE: tensor([1.0, 3.0]), "other" + HOSTILE: tensor([1.0])}
    b["shape" + HOSTILE] = tensor([1.0, 1.0])
    return (
        write_file(tmp_path / "a.safetensors", a),
        write_file(tmp_path / "b.safetensors", b),
    )


# Names that mean harm.


def test_escaping_leaves_text_alone_and_nothing_harmful() -> None:
    assert escape("layers.0.é漢😀 weight") == "layers.0.é漢😀 weight"
    assert escape("\x1b[31m") == "\\x1b[31m"
    assert escape("\u202e") == "\\u202e"
    everything = "".join(map(chr, range(0x3000))) + "\ud800\ufeff\U000e0001"
    for character in everything:
        assert is_harmless(escape(character)) or unicodedata.category(character) == "Cf"
    assert is_harmless(escape(HOSTILE))
    assert escape("\ud800") == "\\ud800"


def test_every_place_that_shows_a_name_escapes_it(hostile: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*hostile)
    stats = ckptdiff.stats(hostile[0])
    listing = Listing(ckptdiff.open(hostile[0]), range(3))
    texts = {
        "repr": repr(report),
        "stats": repr(stats),
        "screen": "\n".join(table.report_lines(report, WIDE, hint="")),
        "layers": "\n".join(table.report_lines(report.by("module"), WIDE, hint="")),
        "html": report._repr_html_(),
        "markdown": report.to_markdown(),
        "list": "\n".join(listing.table_lines(WIDE)),
        "checkpoint": repr(ckptdiff.open(hostile[0])),
    }
    for where, text in texts.items():
        assert is_harmless(text), where
        assert "\x1b" not in text, where
    assert "w\\x1b[2J" in texts["screen"]


def test_html_and_markdown_keep_names_from_being_markup(hostile: tuple[Path, Path]) -> None:
    report = ckptdiff.diff(*hostile)
    html = report._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;&amp;" in html
    rows = [line for line in report.to_markdown().splitlines() if "w\\x1b" in line]
    assert len(rows) == 4
    table_row = next(line for line in rows if line.startswith("|"))
    header = next(line for line in report.to_markdown().splitlines() if line.startswith("|"))
    assert table_row.replace("\\|", "").count("|") == header.replace("\\|", "").count("|")
    # a name with a backtick is fenced by two
    assert "`` w\\x1b[2J" in table_row
    assert markdown.code("plain") == "`plain`"


def test_programs_get_names_as_they_are(hostile: tuple[Path, Path]) -> None:
    rows = list(csv.DictReader(io.StringIO(ckptdiff.diff(*hostile).to_csv(), newline="")))
    assert [row["name"] for row in rows] == [HOSTILE]
    listing = io.StringIO(newline="")
    Listing(ckptdiff.open(hostile[0]), range(3)).write_csv(listing)
    listed = list(csv.DictReader(io.StringIO(listing.getvalue(), newline="")))
    assert {row["name"] for row in listed} == {
        HOSTILE, "only" + HOSTILE, "shape" + HOSTILE
    }  # fmt: skip


def test_a_terminal_is_spared_control_characters_in_csv(hostile: tuple[Path, Path]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from ckptdiff.render.csv import write_rows

    for write in (
        lambda stream: write_rows(ckptdiff.diff(*hostile).rows, stream),
        Listing(ckptdiff.open(hostile[0]), range(3)).write_csv,
    ):
        terminal = Terminal(newline="")
        write(terminal)
        assert is_harmless(terminal.getvalue())


# Columns that fit.


@pytest.fixture
def models() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    a = {
        f"model.layers.{i}.self_attn.some_rather_long_projection_name.weight": rng.normal(
            size=(16, 16)
        ).astype(np.float32)
        for i in range(9)
    }
    b = {name: values * np.float32(1 + i / 100) for i, (name, values) in enumerate(a.items())}
    b["model.layers.4.self_attn.some_rather_long_projection_name.weight"][0, 0] = np.nan
    return a, b


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("by", [None, "layer", "module", "total"])
def test_no_line_is_wider_than_the_screen(
    width: int, by: str | None, models: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    a, b = models
    for report in (
        ckptdiff.diff(a, b, thresholds=[0, 1e-3], rtol=1e-9),
        ckptdiff.stats(a, content_hash=True),
    ):
        shown = report if by is None else report.by(by)  # type: ignore[arg-type]
        lines = list(table._row_lines(shown, screen(width)))
        assert len(lines) > 1
        # what cannot give way any more may stand out on the narrowest of screens
        if width >= 60:
            assert max(map(display_width, lines)) <= width, lines
        for line in lines:
            assert line == line.rstrip()


def test_a_name_is_cut_in_its_middle_and_columns_go_by_priority(
    models: tuple[dict[str, np.ndarray], dict[str, np.ndarray]],
) -> None:
    report = ckptdiff.diff(*models)
    narrow = list(table._row_lines(report, screen(60)))
    wide = list(table._row_lines(report, screen(None)))
    assert "model.layers.0.self_attn.some_rather_long_projection_name.weight" in wide[1]
    assert "…" in narrow[1]
    assert "weight" in narrow[1]
    assert "rel L2" in narrow[0]
    assert "cos dist" not in narrow[0]
    header = next(table._row_lines(report, screen(80)))
    assert [word in header for word in ("changed", "shape", "cos dist")] == [True, False, False]
    assert "cos dist" in wide[0]


def test_cutting_keeps_both_ends_and_counts_wide_characters() -> None:
    assert cut_middle("abcdefghij", 10, WIDE) == "abcdefghij"
    assert cut_middle("abcdefghij", 7, WIDE) == "abc…hij"
    assert cut_middle("abcdefghij", 6, WIDE) == "ab…hij"
    assert cut_middle("abcdefghij", 7, screen(unicode=False)) == "ab..hij"
    assert cut_middle("漢字漢字漢字", 7, WIDE) == "漢…漢字"
    for width in range(1, 14):
        assert display_width(cut_middle("漢字漢字漢字", width, WIDE)) <= width


def test_display_width() -> None:
    assert display_width("weight") == 6
    assert display_width("漢字") == 4
    assert display_width("e\u0301") == 1
    assert display_width("128×4") == 5
    assert display_width("▏█") == 2


def test_blocks_may_widen_a_table_and_align_in_themselves() -> None:
    columns = [Column("name", flexible=True), Column("n", right=True)]
    blocks = [[Strip(["a", "漢"]), Strip(["1", "10"])], [Strip(["b×"]), Strip(["10000"])]]
    lines = list(table_lines(columns, blocks, WIDE, widest_name=6))
    assert lines == ["name     n", "a        1", "漢      10", "b×      10000"]


def test_styles_do_not_count_as_width() -> None:
    columns = [Column("name", flexible=True), Column("n", right=True)]
    strips = [Strip(["a", "bb"], ["", "bold red"]), Strip(["1", "22"], "dim")]
    plain = list(table_lines(columns, [strips], WIDE))
    colored = list(table_lines(columns, [strips], screen(color=True)))
    assert colored[2] == "\x1b[1;31mbb\x1b[0m    \x1b[2m22\x1b[0m"
    assert plain[2] == "bb    22"
    assert colored[1].startswith("a  ")


def test_the_footer_stands_below_a_rule() -> None:
    from ckptdiff.render.layout import Cell

    columns = [Column("name", flexible=True), Column("n", right=True)]
    lines = list(table_lines(columns, [], WIDE, footer=[Cell("total"), Cell("123")]))
    assert lines == ["name     n", "──────────", "total  123"]


@pytest.mark.parametrize("by", [None, "layer"])
def test_ascii_where_the_encoding_has_no_more(
    by: str | None, models: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> None:
    report = ckptdiff.diff(*models, histogram=True)
    shown = report if by is None else report.by(by)  # type: ignore[arg-type]
    lines = list(table.report_lines(shown, screen(unicode=False), hint=""))
    assert all(line.isascii() for line in lines), lines
    assert screen(unicode=False).text("漢×") == "\\u6f22x"


def test_the_shards_of_a_listing(tmp_path: Path) -> None:
    folder = write_sharded(
        tmp_path, {f"layers.{i}.w": tensor(np.zeros((2, 3, i))) for i in range(11)}, 2
    )
    checkpoint = ckptdiff.open(folder)
    lines = list(Listing(checkpoint, range(11)).table_lines(WIDE))
    assert lines[0].split() == ["tensor", "dtype", "shape", "bytes", "shard"]
    assert lines[1].split() == [
        "layers.0.w",
        "F32",
        "2×3×0",
        "0",
        "model-00001-of-00002.safetensors",
    ]
    assert lines[2].split()[-1] == "model-00002-of-00002.safetensors"
    assert lines[10].split()[:4] == ["layers.9.w", "F32", "2×3×9", "216"]
    assert lines[-2] == "11 tensors, 330 elements, 1.32 kB in 2 shards"
    some = list(Listing(checkpoint, [1, 10]).table_lines(WIDE))
    assert some[-2] == "2 tensors, 66 elements, 264 B; 9 left out by globs"
    assert some[-1] == "F32: 2 tensors, 66 elements, 264 B"


def test_a_listing_of_nothing() -> None:
    listing = Listing(ckptdiff.open({}), range(0))
    assert list(listing.table_lines(WIDE)) == ["0 tensors, 0 elements, 0 B", ""]


def test_a_listing_of_dtypes_and_scalars(tmp_path: Path) -> None:
    held = {"s": tensor(3.0), "i": tensor([1, 2], "I64"), "f": tensor([1.0, 2.0], "BF16")}
    listing = Listing(ckptdiff.open(write_file(tmp_path / "m.safetensors", held)), range(3))
    lines = list(listing.table_lines(WIDE))
    assert [line.split() for line in lines[1:4]] == [
        ["f", "BF16", "2", "4"],
        ["i", "I64", "2", "16"],
        ["s", "F32", "scalar", "4"],
    ]
    # the dtype with the most bytes first, by name where two have as many
    assert [part.split(":")[0] for part in lines[-1].split("B, ")] == ["I64", "BF16", "F32"]


# Bars and sparklines.


def test_bars() -> None:
    assert bar(0.0, 1.0, 10) == ""
    assert bar(math.nan, 1.0, 10) == ""
    assert bar(-1.0, 1.0, 10) == ""
    assert bar(1.0, 1.0, 10) == bar(math.inf, 1.0, 10) == bar(2.0, 1.0, 10) == "█" * 10
    assert bar(0.5, 1.0, 10) == "█" * 5
    assert bar(1 / 80, 1.0, 10) == "▏"
    assert bar(1e-300, 1.0, 10) == "▏"
    lengths = [display_width(bar(step / 97, 1.0, 10)) for step in range(98)]
    assert lengths == sorted(lengths)


def test_sparklines() -> None:
    assert sparkline({}, range(0), 8) == ""
    assert sparkline({}, range(3), 8) == "   "
    assert sparkline({-2: 1, 0: 8}, range(-2, 1), 8) == "▁ █"
    # an exponent that has anything shows, and several share a character where there is no room
    assert sparkline({0: 1, 99: 10**9}, range(100), 4) == "▁  █"
    assert common_range([{3: 1}, {-5: 2, 0: 1}]) == range(-5, 4)
    assert common_range([{}, {}]) == range(0)


# Numbers.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (human_count(9_999), "9,999"),
        (human_count(10_000), "10.0 k"),
        (human_count(999_499), "999 k"),
        (human_count(999_500), "1.00 M"),
        (human_count(1_230_000_000), "1.23 G"),
        (human_bytes(999), "999 B"),
        (human_bytes(1000), "1.00 kB"),
        (human_bytes(14_600_000_000), "14.6 GB"),
        (percent(0, 0), "-"),
        (percent(0, 5), "0 %"),
        (percent(5, 5), "100 %"),
        (percent(1, 10**9), "<0.01 %"),
        (percent(10**9 - 1, 10**9), ">99.9 %"),
        (percent(1, 8), "12.5 %"),
        (percent(9996, 10_000), "99.9 %"),
        (scientific(None), "-"),
        (scientific(math.nan), "NaN"),
        (scientific(-math.inf), "-Inf"),
        (scientific(0.0), "0"),
        (scientific(-0.0), "0"),
        (scientific(123_456_789), "123,456,789"),
        (scientific(2**64), "1.84e+19"),
        (scientific(0.125), "0.125"),
        (scientific(3.2e-5), "3.20e-05"),
        (exponential(0.125), "1.25e-01"),
        (exponential(0.0), "0"),
        (shape_text((128, 4)), "128×4"),
        (shape_text(()), "scalar"),
        (shape_text(None), "-"),
        (index_text((3, 4)), "[3, 4]"),
        (index_text(None), "-"),
        (duration(0.0431), "43 ms"),
        (duration(0.9999), "1.0 s"),
        (duration(59.96), "1 min 0 s"),
        (duration(200), "3 min 20 s"),
        (rate(14.6e9, 2), "7.30 GB/s"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text == expected
