from __future__ import annotations

from pathlib import Path

import pytest

from clusterray.core.errors import SceneFault, UsageFault
from clusterray.core.model import FileFormat
from clusterray.povray.ini import Origin
from clusterray.povray.option_table import (
    OPTIONS,
    SWITCHES,
    BadValue,
    Kind,
    Option,
    Policy,
    Value,
    check_value,
    find_option,
    match_switch,
    parse_value,
    written,
)
from clusterray.povray.options import Options
from clusterray.povray.spec import RenderSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "room.pov").touch()
    (tmp_path / "my dir").mkdir()
    (tmp_path / "head.inc").touch()
    return tmp_path.resolve()


def collect(folder: Path, *words: str, ini: str | None = None) -> Options:
    options = Options(folder, folder)
    options.add_debian_defaults()
    if ini is not None:
        (folder / "scene.ini").write_text(ini, encoding="utf-8")
        options.add_ini(folder / "scene.ini")
    options.add_command_line(words)
    return options


def spec_of(folder: Path, *words: str, ini: str | None = None) -> RenderSpec:
    return collect(folder, *words, ini=ini).spec("room.pov", None, "test")


def own(folder: Path, *words: str, ini: str | None = None) -> dict[str, Value]:
    """The options that are not Debian's defaults."""
    pairs = spec_of(folder, *words, ini=ini).options
    return {name: value for name, value in pairs if name != "Bounding_Threshold"}


def sources_of(spec: RenderSpec) -> dict[str, str]:
    return {name: source for name, _value, source in spec.settings()}


# -------------------------------------------------------------------- the table


def test_every_switch_sets_options_of_the_table() -> None:
    for switch in SWITCHES:
        for name in (switch.flag, switch.value):
            assert not name or find_option(name) is not None


def test_no_switch_hides_behind_its_own_beginning() -> None:
    for at, switch in enumerate(SWITCHES):
        for later in SWITCHES[at + 1 :]:
            assert not (
                later.letters != switch.letters and later.letters.startswith(switch.letters)
            )


def test_every_refusal_says_the_way_out() -> None:
    for option in OPTIONS:
        if option.policy in (Policy.REFUSED, Policy.NODE):
            assert option.why, option.name


def test_switches_are_matched_as_povray_does() -> None:
    for key, letters, rest in [
        ("AM2", "AM", "2"),
        ("am2", "AM", "2"),
        ("A0.3", "A", "0.3"),
        ("A", "A", ""),
        ("KFF1", "KFF", "1"),
        ("KF1", "KF", "1"),
        ("K1", "K", "1"),
        ("RFI", "RFI", ""),
        ("RFIx", "RF", "Ix"),
        ("UA", "UA", ""),
    ]:
        found = match_switch(key, None)
        assert found is not None
        assert (found[0].letters, found[1]) == (letters, rest)
    for key in ("UA1", "W", "Z", "BS", "PP"):
        assert match_switch(key, None) is None


def test_parsed_values_are_canonical_and_survive_being_written() -> None:
    for option in OPTIONS:
        if option.policy is Policy.PICTURE and option.kind not in (Kind.PATH, Kind.TEXT):
            check_parsing(option)


def check_parsing(option: Option) -> None:
    texts = {
        Kind.BOOL: ["on", "No", "TRUE", "0"],
        Kind.INT: ["5", " 4 ", "+7", "2.9"],
        Kind.FLOAT: ["0.3", ".5", "2", "1e0"],
        Kind.GAMMA: ["srgb", "2.2", "1"],
        Kind.CHOICE: ["b2", "B4"],
        Kind.DECLARE: ["x=1", "Long_Name9=-.5e-3", 'S="some text"'],
    }[option.kind]
    for text in texts:
        try:
            value = parse_value(option, text)
        except BadValue:
            assert option.low > 2 or option.high < 7
            continue
        assert check_value(option, value) == value
        assert parse_value(option, written(value)) == value


# -------------------------------------------------------------------- switches and values


def test_debian_defaults(folder: Path) -> None:
    spec = spec_of(folder)
    assert (spec.width, spec.height, spec.file_type, spec.bits) == (800, 600, "N", 8)
    assert spec.options == (("Bounding_Threshold", 3),)
    assert {source for _n, _v, source in spec.settings() if source != "test"} == {
        "",
        "Debian's default",
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-A"], {"Antialias": False}),
        (["+A0.3"], {"Antialias": True, "Antialias_Threshold": 0.3}),
        (["+a", "+am2", "+R3"], {"Antialias": True, "Sampling_Method": 2, "Antialias_Depth": 3}),
        (["-J"], {"Jitter": False}),
        (["+J0.5"], {"Jitter": True, "Jitter_Amount": 0.5}),
        (["+Q9", "+BS16"], {"Quality": 9, "Render_Block_Size": 16}),
        (["+MV3.7", "+K0.25"], {"Version": 3.7, "Clock": 0.25}),
        (["Declare=x=1", "Declare=y=2.50"], {"Declare": "y=2.5"}),
        (['Declare=s="a b"'], {"Declare": 's="a b"'}),
        (["+Lmy dir"], {"Library_Path": "my dir"}),
        (['+L"my dir"'], {"Library_Path": "my dir"}),
        (["my dir/"], {"Library_Path": "my dir"}),
        (["+HIhead.inc"], {"Include_Header": "head.inc"}),
        (["+L/usr/share/povray-3.7/include"], {}),
        (["+THB2"], {"Dither": True, "Dither_Method": "B2"}),
        (["+TH"], {"Dither": True, "Dither_Method": "FS"}),
        (["+THd1"], {"Dither": True, "Dither_Method": "D1"}),
        (["-THFS"], {"Dither": False}),
        (["File_Gamma=sRGB"], {"File_Gamma": "sRGB"}),
        (["File_Gamma=2"], {"File_Gamma": 2.0}),
        (["Antialias=On", "Antialias_Depth=2"], {"Antialias": True, "Antialias_Depth": 2}),
        (["+BM2", "+SU", "-UR", "+HR"], None),
        # No pixel depends on these.
        (
            ["-D", "+P", "+V", "+X", "+SP32", "+EP4", "+RP2", "+RS3", "+UL", "+UV", "-GR", "+WL0"],
            {},
        ),
        (["Display_Gamma=2.2", "Create_Histogram=on", "Test_Abort_Count=9", "+MI64", "-C"], {}),
        (["+KFI1", "+KFF1"], {}),
        (["+KFI0", "+KFF0", "+KI0.5"], {}),
        (["+KFI1", "+KFF1", "+SF1", "+EF1"], {}),
        (["Initial_Clock=0", "Final_Clock=1"], {}),
    ],
)
def test_switches_and_options(
    folder: Path, words: list[str], expected: dict[str, Value] | None
) -> None:
    if expected is None:
        expected = {
            "Bounding_Method": 2,
            "Remove_Bounds": False,
            "Split_Unions": True,
            "High_Reproducibility": True,
        }
    assert own(folder, *words) == expected


def test_size_and_format(folder: Path) -> None:
    spec = spec_of(folder, "+W64", "-H48", "+FN8", "+UA")
    assert (spec.width, spec.height, spec.alpha, spec.grey, spec.bits) == (64, 48, True, False, 8)
    grey = spec_of(folder, "+FNg")
    assert (grey.grey, grey.bits) == (True, 16)
    assert spec_of(folder, "+FNg", "Grayscale_Output=Off").bits == 8
    # POV-Ray reads only the letter of an option's type, so N16 is 8 bits there.
    assert spec_of(folder, "Output_File_Type=N16").bits == 8


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("+FN16 +UA", FileFormat("N", 16, alpha=True)),
        ("+FN20", FileFormat("N", 16)),
        ("Bits_Per_Color=1", FileFormat("N", 5)),
        ("+FT16 +UA", FileFormat("T", 8, alpha=True)),
        ("+FC", FileFormat("C")),
        ("+FP12 +UA", FileFormat("P", 12, alpha=True)),
        ("+FPg", FileFormat("P", 16, grey=True)),
        ("+FB", FileFormat("B")),
        ("+FJ16 +UA", FileFormat("J", alpha=True)),
        ("+FJ Compression=95", FileFormat("J", quality=95)),
        ("+FJ Compression=1", FileFormat("J", quality=85)),
        ("+FJ Compression=200", FileFormat("J", quality=100)),
        ("+FE +UA", FileFormat("E", 16, alpha=True)),
        ("+FH +UA", FileFormat("H", alpha=True)),
        ("Output_File_Type=E", FileFormat("E", 16)),
    ],
)
def test_every_file_type_is_what_povray_makes_of_it(
    folder: Path, words: str, kind: FileFormat
) -> None:
    spec = spec_of(folder, *words.split())
    assert spec.file_format == kind
    assert spec.extension == kind.extension


def test_what_changes_nothing_is_not_part_of_the_job(folder: Path) -> None:
    plain = spec_of(folder, "+FJ").digest()
    assert spec_of(folder, "+FJ", "+TH").digest() == plain
    assert spec_of(folder, "+FJ", "Compression=90").digest() != plain
    assert spec_of(folder, "Compression=9").digest() == spec_of(folder).digest()


def test_grey_ppm_gets_the_bits_it_can_have_and_that_is_said(folder: Path) -> None:
    options = collect(folder, "+FPg")
    assert options.spec("a.pov", None, "test").bits == 16
    assert "16 bits" in options.notes[-1]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("+SR10", r"\+SR10 \(Start_Row\) is refused: .*--region"),
        ("+ER10", "--region"),
        ("+SC2", "--region"),
        ("+EC1", "--region"),
        ("Start_Row=0.5", "--region"),
        ("+C", "Continue_Trace"),
        ("Continue_Trace=On", "finished work"),
        ("Pre_Scene_Command=touch x", "runs no programs"),
        ("Post_Frame_Command=x", "runs no programs"),
        ("+GIall.ini", "writes nothing but the picture"),
        ("Create_Ini=On", "writes nothing but the picture"),
        ("+GRout.txt", "writes nothing but the picture"),
        ("Debug_File=true", "writes nothing but the picture"),
        ("+KFF10", "animations come later"),
        ("+KFI2", "animations come later"),
        ("Final_Frame=1", "animations come later"),
        ("+KF5", "animations come later"),
        ("+SF3", "animations come later"),
        ("+EF3", "animations come later"),
        ("+FX", "no such file type"),
        ("+FS", "no such file type"),
        ("+FTg", "grey as PNG and PPM only"),
        ("Compression=300", "between 0 and 255"),
        ("+FNx", "comes g or a number of bits"),
        ("-F", "always writes the picture"),
        ("+WT4", r"\+WT4 \(Work_Threads\) is refused: each node decides"),
        ("+Oout/x.png", "plain file name.*-o"),
        ("+O-", "-o"),
        ("+RFI", "radiosity files come in a later version"),
        ("+RFcache", "radiosity files"),
        ("+RTR", "single pictures"),
        ("+Z", r"\+Z is not a switch of POV-Ray 3.7"),
        ("+W", "lacks its value"),
        ("+Wabc", "must be a whole number, not 'abc'"),
        ("+W0", "must lie between 1 and 1000000, not be 0"),
        ("+W-20", "between 1 and 1000000"),
        ("+H1000001", "between 1 and 1000000"),
        ("+W99999999999999999999", "whole number"),
        ("+BS3", "between 4 and"),
        ("+AM0", "between 1 and 3"),
        ("+Anan", "must be a number"),
        ("Antialias=maybe", "must be on or off"),
        ("+THB5", "one of B2, B3, B4"),
        ("Declare=9x=1", "name=number"),
        ("Declare=x", "name=number"),
        ("Declare=x=1;y", "name=number"),
        ("+K1e40", "between -1e.30 and 1e.30"),
        ("Widht=3", "did you mean Width"),
        ("+L/etc", "no file of a scene is taken from /etc"),
        ("+L../x", "no such folder"),
        ("+Lnowhere", "no such folder"),
        ("+HI/etc/passwd", "no file of a scene is taken from /etc/passwd"),
        ("+HInone.inc", "no such file"),
        ("Include_Ini=none", "neither a POV-Ray option nor"),
        ("nonsense", "neither a POV-Ray option nor a scene nor an INI file"),
    ],
)
def test_refusals_end_with_exit_code_2_from_the_command_line(
    folder: Path, word: str, sentence: str
) -> None:
    with pytest.raises(UsageFault, match=sentence) as caught:
        spec_of(folder, word)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "line",
    ["+SR10", "Pre_Scene_Command=rm", "Final_Frame=30", "Output_File_Type=S", "+GIx"],
)
def test_refusals_end_with_file_and_line_from_an_ini(folder: Path, line: str) -> None:
    with pytest.raises(SceneFault) as caught:
        spec_of(folder, ini=f"; first\n{line}\n")
    assert (caught.value.file, caught.value.line, caught.value.exit_code) == ("scene.ini", 2, 3)


@pytest.mark.parametrize(
    "line",
    [
        *("Pre_Scene_Command=", "Post_Scene_Return=f", "Continue_Trace=Off", "All_File="),
        *("Start_Row=1", "End_Row=1", "Start_Column=0", "End_Column=1.0", "Create_Ini=off"),
        *("Include_Header=", "Output_File_Name=", "Render_File=false"),
    ],
)
def test_what_asks_for_nothing_is_passed_over(folder: Path, line: str) -> None:
    assert own(folder, ini=line) == {}


def test_a_stronger_source_may_mend_what_a_weaker_one_asks(folder: Path) -> None:
    ini = "Final_Frame=30\nFinal_Clock=5\nOutput_File_Type=T\nBits_Per_Color=16\nDither=On\n"
    assert own(folder, "+KFI1", "+KFF1", "+FN8", "-TH", ini=ini) == {"Dither": False}


def test_an_ini_is_taken_over_with_notes(folder: Path) -> None:
    options = collect(folder, ini="Work_Threads=4\nOutput_File_Name=out/x.tga\n-F\n")
    options.spec("room.pov", None, "test")
    assert options.output_stem() == "x"
    assert [note.partition(":")[0] for note in options.notes] == [
        "scene.ini line 1",
        "scene.ini line 2",
        "scene.ini line 3",
    ]
    assert "the picture is named x;" in options.notes[1]


def test_output_name_from_the_command_line(folder: Path) -> None:
    assert collect(folder, "+Oshot.png").output_stem() == "shot"
    assert collect(folder, "+Oshot.v2").output_stem() == "shot.v2"
    assert collect(folder).output_stem() is None


# -------------------------------------------------------------------- who won


def test_the_later_source_wins_and_is_named(folder: Path) -> None:
    spec = spec_of(folder, "+W64", ini="Width=32\nHeight=24\n+A0.2\nQuality=5\n")
    sources = sources_of(spec)
    assert (spec.width, spec.height) == (64, 24)
    assert sources["Width"] == "command line"
    assert sources["Height"] == "scene.ini line 2"
    assert sources["Antialias_Threshold"] == "scene.ini line 3"
    assert sources["Bounding_Threshold"] == "Debian's default"


def test_declares_first_of_a_source_wins_and_later_sources_win(folder: Path) -> None:
    options = collect(folder, "Declare=x=3", ini="Declare=x=1\nDeclare=x=2\nDeclare=y=1\n")
    spec = options.spec("room.pov", None, "test")
    assert [v for n, v in spec.options if n == "Declare"] == ["x=3", "y=1"]
    assert any("x is declared twice: x=1" in note for note in options.notes)
    assert any("x is declared twice: x=3" in note for note in options.notes)
    assert sources_of(spec)["Declare x"] == "command line"


def test_library_paths_add_up_in_order(folder: Path) -> None:
    (folder / "b").mkdir()
    options = collect(folder, "+L.", "+Lmy dir", ini='Library_Path="my dir"\n+Lb\n')
    assert options.spec("room.pov", None, "t").library_paths == ("my dir", "b", ".")
    absolute = collect(folder, f"+L{folder}/b")
    assert absolute.spec("room.pov", None, "t").library_paths == ("b",)


# -------------------------------------------------------------------- INI files in INI files


def test_an_ini_on_the_command_line_with_a_section(folder: Path) -> None:
    (folder / "q.ini").write_text("Quality=1\n[low]\nWidth=8\n", encoding="utf-8")
    spec = spec_of(folder, "q.ini[low]", "+H4")
    assert (spec.width, spec.height, spec.value("Quality")) == (8, 4, 1)
    assert sources_of(spec)["Width"] == "q.ini line 3"
    assert spec_of(folder, "q").value("Quality") == 1


def test_ini_files_that_include_each_other_in_a_circle(folder: Path) -> None:
    (folder / "a.ini").write_text("b.ini\n", encoding="utf-8")
    (folder / "b.ini").write_text("Include_Ini=a.ini\n", encoding="utf-8")
    with pytest.raises(SceneFault, match="includes itself"):
        spec_of(folder, "a.ini")


def test_a_fault_inside_an_included_ini_names_that_file(folder: Path) -> None:
    (folder / "a.ini").write_text("\n+C\n", encoding="utf-8")
    with pytest.raises(SceneFault) as caught:
        spec_of(folder, "a.ini")
    assert (caught.value.file, caught.value.line) == ("a.ini", 2)


def test_latin1_and_windows_line_ends(folder: Path) -> None:
    (folder / "w.ini").write_bytes(b"; caf\xe9\r\nWidth=12\r\n+H34 -J\r\n\x1a")
    spec = spec_of(folder, "w.ini")
    assert (spec.width, spec.height, spec.value("Jitter")) == (12, 34, False)


def test_a_picture_is_no_ini(folder: Path) -> None:
    (folder / "x.png").write_bytes(bytes(range(256)) * 5000)
    with pytest.raises(SceneFault, match="is it an INI file"):
        spec_of(folder, "x.png")


def test_messages_hold_no_terminal_escapes(folder: Path) -> None:
    with pytest.raises(UsageFault) as caught:
        spec_of(folder, "+Z\x1b[31m")
    assert "\x1b" not in str(caught.value)
    assert str(Origin(file="a.ini")) == "a.ini"


@pytest.mark.parametrize("word", ["x" * 300, "a\0b", "+L" + "y" * 300, "+L\0", "+HI" + "z" * 300])
def test_a_name_that_no_disk_takes_is_a_name_of_nothing(folder: Path, word: str) -> None:
    with pytest.raises(UsageFault, match=r"neither a POV-Ray option|there is no such|control"):
        collect(folder, word)


def test_a_number_may_have_any_space_around_it() -> None:
    """Also the separators U+001C to U+001F, which not everything takes for space."""
    option = find_option("Antialias_Threshold")
    assert option is not None
    assert parse_value(option, "\x1e 0.3\x1f") == 0.3
