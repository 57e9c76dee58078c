"""The page shows the model that the benchmark measures, and it is as short as it says."""

from paths import ROOT


def test_page_shows_the_model_that_is_measured() -> None:
    source = (ROOT / "benchmarks" / "torch_parts" / "deepfm.py").read_text()
    code = source.split('"""\n\n', 1)[1]
    assert code in (ROOT / "docs" / "pytorch.md").read_text()
    assert len(source.splitlines()) <= 60
