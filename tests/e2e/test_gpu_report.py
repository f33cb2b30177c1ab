"""The quick-start run in the report of `make gpu`, here on the CPU."""

from tests.bench.gpu_report import run_quick_start


def test_the_gpu_report_runs_the_quick_start() -> None:
    image, seconds, log = run_quick_start(("--cpu",))
    assert image.shape[2] == 3
    assert image.std() > 0.05
    assert seconds > 0
    assert any("LPNSR" in line for line in log)
