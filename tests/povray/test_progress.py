from __future__ import annotations

import time

import pytest

from clusterray.povray.progress import MAX_TEXT_BYTES, ProgressParser, RenderProblem

# As Debian's POV-Ray 3.7.0.10 writes it.
GOOD = (
    b"povray: cannot open the user configuration file /h/.povray/3.7/povray.conf: "
    b"No such file or directory\n"
    b"==== [Parsing...] ==========================================================\n"
    b"Parsing 12K tokens\rParsing 24K tokens\r\n"
    b"File 'a.pov' line 4: Parse Warning: careful there\n"
    b"Parser Time\n"
    b"  Parse Time:       0 hours  0 minutes  1 seconds (1.234 seconds)\n"
    b"              using 1 thread(s) with 1.100 CPU-seconds total\n"
    b"  Bounding Time:    0 hours  0 minutes  0 seconds (0.020 seconds)\n"
    b"              using 1 thread(s) with 0.020 CPU-seconds total\n"
    b"==== [Rendering...] ========================================================\n"
    b"Rendered 1024 of 4096 pixels (25%)\rRendered 4096 of 4096 pixels (100%)\r\n"
    b"----------------------------------------------------------------------------\n"
    b"  Photon Time:      No photons\n"
    b"  Trace Time:       0 hours  0 minutes  2 seconds (2.524 seconds)\n"
    b"              using 2 thread(s) with 0.959 CPU-seconds total\n"
    b"POV-Ray finished\n"
)


def whole(data: bytes) -> ProgressParser:
    parser = ProgressParser()
    parser.feed(data)
    parser.finish()
    return parser


def byte_by_byte(data: bytes) -> ProgressParser:
    parser = ProgressParser()
    for at in range(len(data)):
        parser.feed(data[at : at + 1])
    parser.finish()
    return parser


@pytest.mark.parametrize("feed", [whole, byte_by_byte])
def test_a_good_run(feed: type[ProgressParser]) -> None:
    parser = feed(GOOD)  # type: ignore[call-arg]
    assert (parser.phase, parser.done, parser.total) == ("rendering", 4096, 4096)
    assert parser.parse_s == 1.234
    assert parser.parse_cpu_s == pytest.approx(1.12)
    assert parser.used == ()
    assert parser.fatal is None
    assert parser.warnings == [RenderProblem("careful there", "a.pov", 4)]
    assert "Rendered" not in parser.text_tail
    assert "tokens" not in parser.text_tail
    assert "POV-Ray finished" in parser.text_tail


def test_all_is_told_once_the_trace_is_timed() -> None:
    parser = ProgressParser()
    told, _, rest = GOOD.partition(b"  Trace Time:")
    parser.feed(told)
    assert not parser.told_all
    parser.feed(b"  Trace Time:" + rest)
    assert parser.told_all


def test_progress_as_it_comes() -> None:
    parser = ProgressParser()
    assert (parser.phase, parser.done, parser.total) == ("parsing", 0, 0)
    parser.feed(b"==== [Rendering...] ====\nRendered 10 of 96 pix")
    assert (parser.phase, parser.done) == ("rendering", 0)
    parser.feed(b"els (10%)\r")
    assert (parser.done, parser.total) == (10, 96)


@pytest.mark.parametrize("feed", [whole, byte_by_byte])
def test_a_scene_cannot_forge_progress(feed: type[ProgressParser]) -> None:
    parser = feed(b"Rendered 90 of 100 pixels (90%)\n" * 3)  # type: ignore[call-arg]
    assert (parser.phase, parser.done, parser.total) == ("parsing", 0, 0)


def test_more_than_all_is_no_progress() -> None:
    assert whole(b"Rendered 101 of 100 pixels (101%)\r").done == 0


def test_the_count_starts_again_after_radiosity_s_pretrace() -> None:
    parser = whole(b"Rendered 100 of 100 pixels (100%)\rRendered 1 of 100 pixels (1%)\r")
    assert parser.done == 1
    assert parser.pretraced


@pytest.mark.parametrize("counts", [(408, 204, 612), (96, 48), (1000, 900), (0, 0, 3)])
def test_threads_that_report_out_of_order_do_not_end_the_pretrace(counts: tuple[int, ...]) -> None:
    text = "".join(f"Rendered {count} of 1000 pixels (0%)\r" for count in counts)
    assert not whole(text.encode()).pretraced


def test_the_statistics_of_radiosity_are_read() -> None:
    used = b"  Radiosity Time:   0 hours  0 minutes  2 seconds (2.771 seconds)\n"
    counted = b"Radiosity (final) calculated:                7 (0.18 %)\n"
    parser = whole(counted + used)
    assert (parser.gathers, parser.radiosity) == (7, True)
    assert not whole(b"  Radiosity Time:   No radiosity\n").radiosity


def test_light_in_use_is_what_the_statistics_time() -> None:
    loaded = b"  Photon Time:      0 hours  0 minutes  0 seconds (0.222 seconds)\n"
    assert whole(loaded).used == ()
    photons = b"Number of photons shot:             415\n" + loaded
    assert whole(photons).used == ("photons",)
    both = b"Radiosity samples calculated:    847 (83.20 %)\n" + photons
    assert whole(both).used == ("radiosity", "photons")


@pytest.mark.parametrize("feed", [whole, byte_by_byte])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            b"File 'bad.pov' line 5: Parse Error: No matching } in 'sphere', undeclared\n"
            b" identifier 'pigmnt' found instead\n"
            b"Fatal error in parser: Cannot parse input.\nRender failed\n",
            RenderProblem(
                "No matching } in 'sphere', undeclared identifier 'pigmnt' found instead",
                "bad.pov",
                5,
            ),
        ),
        (
            b"File 'miss.pov' line 2: Possible Parse Error: Cannot find file 'sub\n"
            b" folder/very_long_name_of_a_missing_include_file_that_goes_beyond_eighty_columns\n"
            b"_for_sure.inc', even after trying to append file type extension.\n"
            b"File 'miss.pov' line 2: Parse Error: Cannot open include file sub\n"
            b" folder/very_long_name_of_a_missing_include_file_that_goes_beyond_eighty_columns\n"
            b"_for_sure.inc.\n"
            b"Fatal error in parser: Cannot parse input.\nRender failed\n",
            RenderProblem(
                "Cannot open include file sub folder/very_long_name_of_a_missing_include_file_"
                "that_goes_beyond_eighty_columns_for_sure.inc.",
                "miss.pov",
                2,
            ),
        ),
        (
            b"File 'img.pov' line 2: Possible Parse Error: Cannot find file 'nope.png', even\n"
            b" after trying to append file type extension.\n"
            b"File 'img.pov' line 2: Possible Parse Error: Cannot find image file.\n"
            b"Fatal error in parser: Cannot open file.\nRender failed\n",
            RenderProblem("Cannot find file 'nope.png'", "img.pov", 2),
        ),
        (
            b"File 'err.pov' line 2: Parse Error: Parse halted by #error directive: my own\n"
            b" words: this scene needs more\n"
            b"Fatal error in parser: Cannot parse input.\nRender failed\n",
            RenderProblem(
                "Parse halted by #error directive: my own words: this scene needs more",
                "err.pov",
                2,
            ),
        ),
        (
            b"Fatal error in renderer: Invalid end column or row\nRender failed\n",
            RenderProblem("Invalid end column or row"),
        ),
        (
            b"\nProblem with option setting\npovray +Z\nFailed to parse command-line option\n",
            RenderProblem("POV-Ray did not accept its options"),
        ),
        (
            b"File '/w/private/clusterray-input/sub%2Fsc%C3%A8ne.pov' line 3: Parse Error: no\n"
            b"Fatal error in parser: Cannot parse input.\n",
            RenderProblem("no", "sub/scène.pov", 3),
        ),
        (b"File 'a.pov' line 3: Parse Error: end", RenderProblem("end", "a.pov", 3)),
        (b"Render failed\n", RenderProblem("POV-Ray gave no reason")),
        (b"File 'a.pov' line 1: Possible Parse Error: maybe\nPOV-Ray finished\n", None),
    ],
)  # fmt: skip
def test_why_it_failed(
    feed: type[ProgressParser], text: bytes, expected: RenderProblem | None
) -> None:
    assert feed(text).fatal == expected  # type: ignore[call-arg]


def test_a_problem_reads_as_one_line() -> None:
    assert str(RenderProblem("no", "a.pov", 3)) == "a.pov:3: no"
    assert str(RenderProblem("no")) == "no"


def test_the_text_is_bounded_and_harmless() -> None:
    parser = ProgressParser()
    for number in range(20_000):
        parser.feed(b"\x1b[31mline %d\x07\n" % number)
    parser.feed(b"x" * 100_000 + b"\n")
    parser.feed(b"File 'a' line 1: Parse Error: " + b" y" * 50_000)
    parser.finish()
    tail = parser.text_tail
    assert len(tail.encode()) <= MAX_TEXT_BYTES
    assert not set(tail) & {"\x1b", "\x07"}
    assert tail.endswith(" y")
    assert parser.fatal is not None
    assert len(parser.fatal.message) < 5000


def test_warnings_are_bounded() -> None:
    assert len(whole(b"File 'a' line 1: Parse Warning: w\n" * 999).warnings) == 50


def test_bytes_that_are_no_text() -> None:
    assert whole(b"\xff\xfe\x80\n").text_tail == "\ufffd\ufffd\ufffd"


def test_a_message_of_short_lines_costs_no_time_squared() -> None:
    parser = ProgressParser()
    begun = time.process_time()
    parser.feed(b"File 'a\n" + b" \n" * 400_000)
    # Each line was once added up anew with all before it: a minute.
    assert time.process_time() - begun < 10
