"""The assumed_gamma of a scene, as its text says it."""

from __future__ import annotations

import pytest

from clusterray.povray.gamma import assumed_gamma_of


@pytest.mark.parametrize(
    ("text", "gamma"),
    [
        ("#version 3.7; global_settings { assumed_gamma 1.0 }", 1.0),
        ("#version 3.7; global_settings { assumed_gamma srgb }", None),
        ("global_settings { max_trace_level 5 assumed_gamma 2.2 }", 2.2),
        ("global_settings { assumed_gamma 1 /* assumed_gamma 2.2 */ } // assumed_gamma 2", 1.0),
        ("global_settings { assumed_gamma 1 } global_settings { assumed_gamma 2 }", 1.0),
        ("global_settings { assumed_gamma 1000000 }", 10.0),
        ("#version 3.7;\nsphere { 0, 1 }", 1.0),
        ("#version 3.6;\nsphere { 0, 1 }", None),
        ("sphere { 0, 1 }", None),
    ],
)
def test_gamma_is_the_one_named_or_what_the_version_takes(text: str, gamma: float | None) -> None:
    assert assumed_gamma_of(text) == gamma
